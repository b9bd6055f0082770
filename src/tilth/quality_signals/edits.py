"""Changes of texts as data: spans in characters, what replaces each, and why; nothing is changed until they are applied."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

import pyarrow as pa

from tilth.errors import ContractError

EDITS = pa.schema(
    [
        pa.field("row", pa.int64(), nullable=False),
        pa.field("start", pa.int64(), nullable=False),
        pa.field("end", pa.int64(), nullable=False),
        pa.field("replacement", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
    ]
)


_ROWS_AT_ONCE = 1 << 16  # as Python objects, which take ten times the room
Span = tuple[int, int, str]  # start, end (characters, exclusive), replacement


def edit_table(edits: Iterable[tuple[int, int, int, str, str]]) -> pa.Table:
    """Edits as a table: row of the text, start and end in characters (code points, end exclusive), replacement, reason."""
    left, parts = iter(edits), []
    while rows := list(islice(left, _ROWS_AT_ONCE)):
        columns = zip(*rows, strict=True)
        parts.append(pa.record_batch([pa.array(column, field.type) for column, field in zip(columns, EDITS)], schema=EDITS))
    return pa.Table.from_batches(parts, schema=EDITS)


def apply_edits(texts: pa.Array, edits: pa.Table) -> pa.Array:
    """The texts (large_string) with all edits applied; each text's edits are in order and do not overlap.

    Raises ContractError where they do not fit the text.
    """
    changed: list[str] = [text.as_py() for text in texts]
    for row, spans in spans_by_row(edits).items():
        changed[row] = edited(changed[row], spans)
    return pa.array(changed, pa.large_string())


def spans_by_row(edits: pa.Table) -> dict[int, list[Span]]:
    """The spans of each row and what replaces them, in the order of the table (columns row, start, end, replacement)."""
    found: dict[int, list[Span]] = {}
    columns = [edits.column(name).to_pylist() for name in ("row", "start", "end", "replacement")]
    for row, *span in zip(*columns, strict=True):
        found.setdefault(row, []).append((span[0], span[1], span[2]))
    return found


def edited(text: str, spans: Iterable[Span]) -> str:
    """`text` with spans replaced, which ascend and do not overlap. Raises ContractError where they do, or lie outside."""
    parts, done = [], 0
    for start, end, replacement in spans:
        if not done <= start <= end <= len(text):
            raise ContractError(f"an edit from {start} to {end} does not fit", where=text[:40], fix="sort edits by start")
        parts += [text[done:start], replacement]
        done = end
    return "".join((*parts, text[done:]))
