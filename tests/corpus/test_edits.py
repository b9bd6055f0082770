"""Edits against their definition: what anything wants gone is gone, what nothing names stays, rows stay rows."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from tilth.contracts import DOCUMENTS, EDITS, check
from tilth.corpus.edits import apply_edits, edited, merge_edits
from tilth.corpus.provenance.swhid import content_swhid
from tilth.corpus.reading import read_shard
from tilth.corpus.sources.folder import Folder


def edits(*rows: tuple[int, int, int, str]) -> pa.Table:
    return pa.Table.from_pylist(
        [
            {"shard": "a/00000", "row": row, "start": start, "end": end, "replacement": replacement, "reason": "test"}
            for row, start, end, replacement in rows
        ],
        schema=EDITS.schema,
    )


@given(
    text=st.text(alphabet="abcdeé\n", max_size=30),
    cuts=st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=6),
    n_tables=st.integers(1, 3),
)
def test_overlapping_cuts_remove_their_union(text: str, cuts: list[tuple[int, int]], n_tables: int) -> None:
    spans = [(min(a, b, len(text)), min(max(a, b), len(text))) for a, b in cuts]
    tables = [edits(*((0, start, end, "") for start, end in spans[i::n_tables])) for i in range(n_tables)]
    merged = merge_edits(tables).to_pylist()
    gone = {i for start, end in spans for i in range(start, end)}
    assert edited(text, [(row["start"], row["end"], row["replacement"]) for row in merged]) == "".join(
        char for i, char in enumerate(text) if i not in gone
    )
    assert all(one["end"] <= two["start"] for one, two in pairwise(merged))


def test_a_replacement_within_a_cut_line_goes_with_it() -> None:
    merged = merge_edits([edits((0, 0, 10, "")), edits((0, 3, 6, "<e-mail>"), (0, 8, 14, "<phone>"))])
    assert edited("0123456789abcdef", [(r["start"], r["end"], r["replacement"]) for r in merged.to_pylist()]) == "ef"


def test_documents_keep_their_rows_and_their_source(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("call 555 now")
    (tmp_path / "b.txt").write_text("über all")
    (tmp_path / "c.txt").write_text("gone")
    source = Folder("a", str(tmp_path))
    (batch,) = read_shard(source, source.plan()[0])
    before = batch.documents.to_pylist()
    changed = apply_edits(batch.documents, merge_edits([edits((0, 5, 8, "<number>"), (2, 0, 4, ""))]))
    check(changed, DOCUMENTS)
    after: list[dict[str, Any]] = changed.to_pylist()
    assert [row["text"] for row in after] == ["call <number> now", "über all", ""]
    assert [row["text_swhid"] for row in after] == [content_swhid(row["text"].encode()) for row in after]
    assert [(row["n_bytes"], row["n_chars"]) for row in after] == [(17, 17), (9, 8), (0, 0)]
    assert after[1] == before[1]
    for name in ("doc_id", "shard", "row", "raw_swhid", "encoding", "source"):
        assert [row[name] for row in after] == [row[name] for row in before]
    assert after[0]["extraction"] == before[0]["extraction"] + "+edits"
