"""From places back to documents, and from subsets to texts."""

from __future__ import annotations

import tracemalloc

import pyarrow as pa
import pytest

from tilth.artifacts import Store
from tilth.catalog import trace
from tilth.catalog.corpus_views import restrict
from tilth.catalog.pick import pick
from tilth.catalog.trace import documents_at, subset_documents
from tilth.errors import NotFoundError, QueryError, StoreError


def test_documents_at_gives_provenance_in_the_order_asked(store: Store, demo, docs):
    places = [(docs[number]["shard"], docs[number]["row"]) for number in (30, 5, 20, 5)]
    rows = documents_at(store, "demo", places, ["n_words", "lid_score"], with_text=True).to_pylist()
    for row, number in zip(rows, (30, 5, 20, 5), strict=True):
        doc = docs[number]
        for name in ("shard", "row", "source", "url", "text_swhid", "raw_swhid", "n_words", "lid_score", "text"):
            assert row[name] == doc[name], name
        assert row["doc_id"].replace("-", "") == doc["doc_id"].hex()
    assert rows[1] == rows[3]
    assert (rows[1]["origin"], rows[1]["path"], rows[1]["n_occurrences"]) == ("https://another.example/fork", "copy.py", 2)
    assert [claim["spdx"] for claim in rows[1]["evidence"]] == ["Apache-2.0 OR GPL-2.0-only"]
    assert rows[1]["evidence"][0]["evidence_path"] == "LICENSE.Apa"
    assert rows[0]["licence"] is None
    assert rows[0]["evidence"] == []
    assert rows[2]["cluster_id"].replace("-", "") == docs[0]["doc_id"].hex()
    assert not rows[2]["is_keeper"]


def test_documents_at_opens_the_shards_asked_alone(store: Store, demo, docs):
    for part in demo.parts:
        if part.shard == "web/00001":
            for path in store.artifact(part).path.glob("*.parquet"):
                path.unlink()
    assert documents_at(store, "demo", [("web/00000", 3)]).num_rows == 1


def test_documents_at_of_a_subset_survives_a_new_corpus(store: Store, demo, docs, corpus_saver):
    subset = pick(store, "demo", "clean", "n_words > 1 and is_keeper").named
    corpus_saver("demo", docs[:5])
    (row,) = documents_at(store, subset, [("web/00001", 24)], ["n_words"]).to_pylist()
    assert row["text_swhid"] == docs[-1]["text_swhid"]
    assert row["n_words"] == docs[-1]["n_words"]


def test_documents_at_bad_input(store: Store, demo):
    with pytest.raises(NotFoundError, match="no document lies there") as caught:
        documents_at(store, "demo", [("web/00000", 3), ("web/00000", 999)])
    assert "web/00000:999" in str(caught.value.where)
    assert "fewer rows" in str(caught.value.fix)
    with pytest.raises(NotFoundError, match="web/00001"):
        documents_at(store, "demo", [("web/00002", 3)])
    with pytest.raises(QueryError, match="Did you mean `n_words`"):
        documents_at(store, "demo", [("web/00000", 3)], ["n_wrods"])
    assert documents_at(store, "demo", []).num_rows == 0


@pytest.mark.parametrize(("rows_per_group", "rows_per_batch"), [(1024, 256), (4, 3)])
def test_subset_documents_in_order(store: Store, docs, corpus_saver, monkeypatch, rows_per_group, rows_per_batch):
    monkeypatch.setattr(trace, "_ROWS_PER_BATCH", rows_per_batch)
    corpus_saver("demo", docs, row_group_size=rows_per_group)
    pick(store, "demo", "clean", "n_words > 1 and row <> 7", validation_share=0.4)
    expected = [doc for doc in docs if (doc["n_words"] or 0) > 1 and doc["row"] != 7]
    found = list(subset_documents(store, "clean"))
    assert [(item.doc_id, item.shard, item.row, item.text) for item in found] == [
        (doc["doc_id"], doc["shard"], doc["row"], doc["text"]) for doc in expected
    ]
    assert {item.split for item in found} == {"train", "validation"}


def test_subset_documents_notices_another_corpus(store: Store, demo, docs, corpus_saver):
    subset = pick(store, "demo", "clean", "n_words > 1").named
    other = corpus_saver("other", [{**doc, "doc_id": bytes(15) + bytes([number])} for number, doc in enumerate(docs)])
    swapped = [part for part in subset.parts if part.step != "read"] + other.of("read")
    store.save_named("subset", "clean", swapped, subset.meta)
    with pytest.raises(StoreError, match="another document"):
        list(subset_documents(store, "clean"))
    store.save_named("subset", "clean", [subset.one("pick")], subset.meta)
    with pytest.raises(StoreError, match="not picked from"):
        list(subset_documents(store, "clean"))


def test_subset_documents_streams(store: Store, new_document, corpus_saver):
    import random

    rng = random.Random(0)
    docs = [new_document("web/00000", row, f"{row} " + "x" * 100_000, rng) for row in range(600)]
    corpus_saver("demo", docs, row_group_size=50)
    del docs
    pick(store, "demo", "clean", "true")
    tracemalloc.start()
    before = pa.total_allocated_bytes()
    worst = 0
    for number, _ in enumerate(subset_documents(store, "clean")):
        worst = max(worst, pa.total_allocated_bytes() - before) if number % 5 == 0 else worst
    _, python_peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert number == 599
    assert worst + python_peak < 30_000_000  # of 60 MB of text in row groups of 5 MB


def test_restrict_keeps_parts_without_a_shard(demo):
    steps = {(part.step, part.shard) for part in restrict(demo, {"web/00000"}).parts}
    assert ("dedup.exact", None) in steps
    assert ("read", "web/00000") in steps
    assert ("read", "web/00001") not in steps
