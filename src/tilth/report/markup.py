"""HTML that is safe by default: a plain string is text and is escaped; only what this module built is markup."""

from __future__ import annotations

import html
import json
import re
from typing import Any, TypeAlias

# Control characters that HTML forbids, and the ones that turn the direction of the text around them.
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ufdd0-\ufdef\ufffe\uffff]")


class Markup(str):
    """A string that is HTML already."""

    __slots__ = ()


Child: TypeAlias = "str | Markup | None"


def text(value: str) -> Markup:
    """Any text as HTML that shows it and can do nothing; what cannot be seen becomes U+FFFD."""
    if isinstance(value, Markup):
        return value
    printable = value.encode("utf-8", "replace").decode("utf-8")
    return Markup(html.escape(_UNSEEN.sub("\ufffd", printable), quote=True))


def tag(name: str, *children: Child, **attributes: str | int | float | None) -> Markup:
    """An element. `class_` is written `class`, `data_value` is `data-value`; an attribute that is None is left out."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{text(str(value))}"' for key, value in attributes.items() if value is not None
    )
    if name in ("br", "line", "path", "rect"):
        return Markup(f"<{name}{written}/>")
    return Markup(f"<{name}{written}>{join(*children)}</{name}>")


def join(*children: Child) -> Markup:
    """Children one after the other, text among them escaped."""
    return Markup("".join(text(child) for child in children if child is not None))


def json_script(value: Any, **attributes: str) -> Markup:
    """A data block that no text inside can end: `<` never appears in it. NaN is refused, for JSON has none."""
    body = json.dumps(value, separators=(",", ":"), ensure_ascii=True, allow_nan=False).replace("<", "\\u003c")
    return tag("script", Markup(body), type="application/json", **attributes)


def shorten(value: str, max_chars: int) -> str:
    """The beginning of a text, with an ellipsis where something was cut off."""
    return value if len(value) <= max_chars else value[: max_chars - 1].rstrip() + "…"
