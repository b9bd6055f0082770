"""Exact duplicates: first by (shard, row) is kept, whatever the order of the rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilth.contracts import DUPLICATES, check
from tilth.dedup.exact.duplicates import exact_duplicates


def _keys(make_documents: Callable[..., pa.Table], swhids: list[str], shard: str = "s") -> pa.Table:
    return make_documents(["" for _ in swhids], shard).append_column("text_swhid", pa.array(swhids, pa.string()))


def _rows(found: pa.Table) -> list[dict[str, Any]]:
    return found.to_pylist()


def test_clusters_and_matches(make_documents: Callable[..., pa.Table]) -> None:
    keys = _keys(make_documents, ["a", "b", "a", "c", "b", "a"])
    ids = keys.column("doc_id").to_pylist()
    found = _rows(exact_duplicates(keys))
    assert [row["row"] for row in found] == [0, 1, 2, 4, 5]
    assert [row["is_keeper"] for row in found] == [True, True, False, False, False]
    assert [row["cluster_id"] for row in found] == [ids[0], ids[1], ids[0], ids[1], ids[0]]
    assert [row["matched_id"] for row in found] == [ids[2], ids[4], ids[0], ids[1], ids[0]]
    assert {(row["method"], row["threshold"], row["similarity"]) for row in found} == {("exact", 1.0, 1.0)}


def test_the_keeper_is_the_first_by_shard_and_row(make_documents: Callable[..., pa.Table]) -> None:
    tables = [_keys(make_documents, ["x", "y"], shard) for shard in ("web/00001", "code/00000", "web/00000")]
    found = _rows(exact_duplicates(pa.concat_tables(tables)))
    assert [(row["shard"], row["row"]) for row in found if row["is_keeper"]] == [("code/00000", 0), ("code/00000", 1)]


def test_without_duplicates_the_table_is_empty(make_documents: Callable[..., pa.Table]) -> None:
    for swhids in ([], ["a"], ["a", "b"]):
        found = exact_duplicates(_keys(make_documents, swhids))
        assert found.num_rows == 0
        check(found, DUPLICATES)


def test_further_columns_and_chunks_do_not_matter(make_documents: Callable[..., pa.Table]) -> None:
    keys = _keys(make_documents, ["a", "a", "b", "b"])
    pieces = pa.concat_tables([keys.slice(3), keys.slice(1, 2), keys.slice(0, 1)])
    assert exact_duplicates(pieces) == exact_duplicates(keys.select(["text_swhid", "doc_id", "row", "shard"]))


def test_a_missing_column_is_refused(make_documents: Callable[..., pa.Table]) -> None:
    with pytest.raises(KeyError, match="text_swhid"):
        exact_duplicates(make_documents(["a"]))


@settings(max_examples=40, deadline=None)
@given(swhids=st.lists(st.sampled_from("abcd"), max_size=12), rng=st.randoms())
def test_the_order_of_rows_does_not_matter(make_documents: Callable[..., pa.Table], swhids: list[str], rng: Any) -> None:
    keys = _keys(make_documents, swhids)
    order = list(range(len(swhids)))
    rng.shuffle(order)
    found = exact_duplicates(keys.take(pa.array(order, pa.int64())))
    assert found == exact_duplicates(keys)
    assert found.num_rows == sum(swhids.count(swhid) > 1 for swhid in swhids)
