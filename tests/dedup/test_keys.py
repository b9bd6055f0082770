"""Copies by key, against plain grouping in a dictionary: any order, any partition, nothing empty is merged."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilth.contracts import DUPLICATES, check
from tilth.dedup.exact.keys import KEYS, METHODS, key_duplicates, keys_of
from tilth.errors import ContractError, RecipeError

_TEXTS = st.sampled_from(
    ["Soil and seed.", "soil  AND\r\nseed", "Soil", "", "...", "\0", "漢字。", "漢 字", "漢字", "Straße", "STRASSE"]
)
_URLS = st.sampled_from([None, "", "http://a/b", "HTTP://A/b/#x", "http://a/b?utm_id=1", "http://a/c"])
MakeDocuments = Callable[..., pa.Table]


def _documents(make_documents: MakeDocuments, texts: list[str], urls: list[str | None], shard: str) -> pa.Table:
    table = make_documents(texts, shard)
    return table.append_column("url", pa.array(urls, pa.string())).append_column(
        "text_swhid", table.column("text").cast(pa.string())
    )


def _tuples(found: pa.Table) -> list[tuple[Any, ...]]:
    return [(row["shard"], row["row"], row["cluster_id"], row["matched_id"], row["is_keeper"]) for row in found.to_pylist()]


def _plain(keyed: list[tuple[str, int, Any, Any]]) -> list[tuple[Any, ...]]:
    """shard, row, id, key or None -> what must be marked."""
    clusters: dict[Any, list[tuple[str, int, Any]]] = {}
    for shard, row, doc_id, key in sorted(keyed, key=lambda one: one[:2]):
        if key:
            clusters.setdefault(key, []).append((shard, row, doc_id))
    marked = []
    for members in clusters.values():
        for place, (shard, row, _) in enumerate(members if len(members) > 1 else []):
            marked.append((shard, row, members[0][2], members[1 if place == 0 else 0][2], place == 0))
    return sorted(marked, key=lambda one: one[:2])


NORMAL = {
    "Soil and seed.": "soil and seed", "soil  AND\r\nseed": "soil and seed", "Soil": "soil", "漢字。": "漢字", "漢 字": "漢 字",
    "漢字": "漢字", "Straße": "strasse", "STRASSE": "strasse",
}  # fmt: skip
PAGES = {"http://a/b": "b", "HTTP://A/b/#x": "b", "http://a/b?utm_id=1": "b", "http://a/c": "c"}


@settings(max_examples=100, deadline=None)
@given(
    shards=st.lists(st.lists(st.tuples(_TEXTS, _URLS), max_size=6), max_size=4),
    method=st.sampled_from(["normal_text", "url"]),
    rng=st.randoms(),
)
def test_marks_equal_plain_grouping(make_documents: MakeDocuments, shards: list[Any], method: str, rng: Any) -> None:
    tables, keyed = [], []
    for number, documents in enumerate(shards):
        texts, urls = [text for text, _ in documents], [url for _, url in documents]
        table = _documents(make_documents, texts, urls, f"s/{number}")
        keys = [NORMAL.get(text) for text in texts] if method == "normal_text" else [PAGES.get(url or "") for url in urls]
        keyed += [(row["shard"], row["row"], row["doc_id"], key) for row, key in zip(table.to_pylist(), keys, strict=True)]
        cut = rng.randrange(table.num_rows + 1)
        tables += [keys_of(table.slice(0, cut), method), keys_of(table.slice(cut), method)]
    rng.shuffle(tables)
    for table in tables:
        assert table.schema.equals(KEYS)
    found = key_duplicates(lambda: iter(tables), method)
    check(found, DUPLICATES)
    assert _tuples(found) == _plain(keyed)
    assert {(row["method"], row["similarity"], row["threshold"]) for row in found.to_pylist()} <= {(method, 1.0, 1.0)}
    assert key_duplicates(lambda: [pa.concat_tables([KEYS.empty_table(), *tables])], method) == found


def test_a_hundred_thousand_copies_of_one_page(make_documents: MakeDocuments) -> None:
    found = key_duplicates(lambda: [keys_of(make_documents(["the same page"] * 100_000), "normal_text")], "normal_text")
    assert found.num_rows == 100_000
    assert found.column("is_keeper").to_pylist().count(True) == 1
    assert len(set(found.column("cluster_id").to_pylist())) == 1


def test_a_document_given_twice_is_refused(make_documents: MakeDocuments) -> None:
    keys = keys_of(make_documents(["a", "b"]), "normal_text")
    with pytest.raises(ContractError, match="repeat the key"):
        key_duplicates(lambda: [keys, keys.slice(1)], "normal_text")


def test_an_unknown_method_is_refused_with_the_nearest(make_documents: MakeDocuments) -> None:
    with pytest.raises(RecipeError, match="Did you mean `normal_text`"):
        keys_of(make_documents(["a"]), "normal_texts")
    assert METHODS == ("exact", "normal_text", "url")
