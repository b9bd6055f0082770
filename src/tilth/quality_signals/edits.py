"""Changes of texts as data: spans in characters, what replaces each, and why; nothing is changed until they are applied."""

from __future__ import annotations

from collections.abc import Iterable

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


def edit_table(edits: Iterable[tuple[int, int, int, str, str]]) -> pa.Table:
    """Edits as a table: row of the text, start and end in characters (code points, end exclusive), replacement, reason."""
    columns = list(zip(*edits)) or [()] * len(EDITS)
    return pa.table([pa.array(column, field.type) for column, field in zip(columns, EDITS)], schema=EDITS)


def apply_edits(texts: pa.Array, edits: pa.Table) -> pa.Array:
    """The texts (large_string) with all edits applied; each text's edits are in order and do not overlap.

    Raises ContractError where they do not fit the text.
    """
    changed: list[str] = [text.as_py() for text in texts]
    by_row: dict[int, list[tuple[int, int, str]]] = {}
    for edit in edits.to_pylist():
        by_row.setdefault(edit["row"], []).append((edit["start"], edit["end"], edit["replacement"]))
    for row, spans in by_row.items():
        text, parts, done = changed[row], [], 0
        for start, end, replacement in spans:
            if not done <= start <= end <= len(text):
                raise ContractError(f"an edit from {start} to {end} does not fit", where=f"row {row}", fix="sort edits by start")
            parts += [text[done:start], replacement]
            done = end
        changed[row] = "".join((*parts, text[done:]))
    return pa.array(changed, pa.large_string())
