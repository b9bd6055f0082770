"""Applies edits to documents: the texts change, their rows and everything that names their source do not."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from tilth.contracts import EDITS, check
from tilth.corpus.provenance.swhid import content_swhid
from tilth.quality_signals.edits import edited, spans_by_row

__all__ = ["apply_edits", "edited", "merge_edits"]


def merge_edits(tables: Sequence[pa.Table]) -> pa.Table:
    """Edits of several kinds over the same texts as one table in the order of (shard, row, start), without overlaps.

    Where two overlap, the one that begins first (the longer one, if both do) holds; another that reaches further goes
    on, as a cut, where it ends. So a span that anything wanted to be gone is gone.
    """
    rows = pa.concat_tables([table.cast(EDITS.schema) for table in tables]).to_pylist()
    rows.sort(key=lambda row: (row["shard"], row["row"], row["start"], -row["end"], row["reason"]))
    merged: list[dict[str, object]] = []
    place, reached = None, 0
    for row in rows:
        if (row["shard"], row["row"]) != place:
            place, reached = (row["shard"], row["row"]), 0
        if row["start"] < reached:
            row = {**row, "start": reached, "replacement": ""}
        if row["end"] > row["start"] or (row["replacement"] and row["start"] >= reached):
            merged.append(row)
            reached = row["end"]
    found = pa.Table.from_pylist(merged, schema=EDITS.schema)
    check(found, EDITS)
    return found


def apply_edits(documents: pa.RecordBatch, edits: pa.Table) -> pa.RecordBatch:
    """The rows of `documents` (documents/1) with `edits` (edits/1, merged) applied to their texts.

    A text may become empty; its row stays, so that row numbers hold. `text_swhid`, `n_bytes` and `n_chars` follow the
    text, and `extraction` ends in `+edits` where something changed.
    """
    spans = spans_by_row(edits)
    columns = {name: documents.column(name) for name in ("row", "text", "text_swhid", "n_bytes", "n_chars", "extraction")}
    new = {name: column.to_pylist() for name, column in columns.items()}
    for i, row in enumerate(new["row"]):
        if row not in spans:
            continue
        text = edited(new["text"][i], spans[row])
        data = text.encode("utf-8")
        new["text"][i], new["text_swhid"][i] = text, content_swhid(data)
        new["n_bytes"][i], new["n_chars"][i] = len(data), len(text)
        new["extraction"][i] += "+edits"
    arrays = [
        pa.array(new[field.name], field.type) if field.name in new and field.name != "row" else documents.column(field.name)
        for field in documents.schema
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=documents.schema)
