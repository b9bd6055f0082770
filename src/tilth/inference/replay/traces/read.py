"""read_trace: a file of any known format as a list of requests in the order of their arrival."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

from tilth.errors import UserError, did_you_mean
from tilth.inference.replay.request import TraceRequest
from tilth.inference.replay.traces import azure, marconi, mooncake

READERS: dict[str, Callable[[Path], Iterator[TraceRequest]]] = {
    "mooncake": mooncake.read,
    "azure": azure.read,
    "marconi": marconi.read,
}
_FIELDS = {"mooncake": mooncake.FIELDS, "azure": azure.FIELDS, "marconi": marconi.FIELDS}
AUTO = "auto"


def read_trace(path: Path, form: str = AUTO, limit: int | None = None, max_input: int | None = None) -> list[TraceRequest]:
    """At most `limit` requests of the file, those with longer inputs than max_input left out, by arrival.

    Raises UserError: no such file or format, a bad line (with its number), no request at all.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError("there is no such trace", str(path), "Name a file, or give `--synthetic lmsys`.")
    if form != AUTO and form not in READERS:
        raise UserError(f"there is no format `{form}`", "--format", did_you_mean(form, [*READERS, AUTO]))
    found = READERS[form_of(path) if form == AUTO else form](path)
    kept = (request for request in found if max_input is None or len(request.input_N) <= max_input)
    requests = list(islice(kept, limit))
    if not requests:
        raise UserError("the trace has no request", str(path), "Raise `--limit` or `--max-input`, or give another `--format`.")
    return sorted(requests, key=lambda request: request.arrival)  # stable: the file's order among equals


def form_of(path: Path) -> str:
    """The format that the first line of a file shows. Raises UserError where it shows none."""
    with open(path, "rb") as file:
        head = file.readline().decode("utf-8-sig", "replace").strip()
    try:
        value = json.loads(head)
        names = set(value) if isinstance(value, dict) else set()
    except ValueError:
        names = {name.strip() for name in head.split(",")}
    for form, fields in _FIELDS.items():
        if names.issuperset(fields):
            return form
    known = "; ".join(f"{form}: {', '.join(fields)}" for form, fields in _FIELDS.items())
    raise UserError("this is no trace of a known format", str(path), f"Its first line needs the fields of one. {known}.")
