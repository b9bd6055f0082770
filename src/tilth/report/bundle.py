"""The chart library as one inline script, made by vl-convert without a network."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from tilth.errors import UserError


@cache
def chart_script() -> str:
    """Vega, Vega-Lite and Vega-Embed with the page's own code; about 0.9 MB, 1-2 s to make, once a process.

    Raises UserError if Altair or vl-convert is not installed.
    """
    try:
        import altair  # noqa: F401 (the panels need it: better to know at once)
        import vl_convert
    except ImportError as error:
        what = "the report needs Altair and vl-convert, which are not installed"
        raise UserError(what, str(error), "pip install 'tilth[report]'") from error
    own = files("tilth.report").joinpath("embed.js").read_text("utf-8")
    script = vl_convert.javascript_bundle(own).replace("\r\n", "\n").replace("\r", "\n")
    # Inside a script element, these would end it or change how its end is found.
    for forbidden in ("</script", "<!--"):
        if forbidden in script.lower():
            raise AssertionError(f"the chart library contains {forbidden!r} and cannot be inlined")
    return script
