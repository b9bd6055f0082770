"""The projection against values computed without SQL."""

from __future__ import annotations

from collections import Counter

import duckdb
import pyarrow as pa
import pytest

from tilth.artifacts import Store
from tilth.catalog.connect import connect
from tilth.catalog.sql import run_sql
from tilth.errors import StoreError


def test_wide_view_has_each_document_once_with_its_signals(store: Store, demo, docs):
    rows = run_sql(store, "select * from demo order by shard, row").to_pylist()
    assert [(row["shard"], row["row"]) for row in rows] == [(doc["shard"], doc["row"]) for doc in docs]
    for row, doc in zip(rows, docs, strict=True):
        for name in (
            "source",
            "url",
            "text",
            "n_bytes",
            "n_words",
            "mean_word_length",
            "lid_language",
            "lid_score",
            "n_tokens",
            "words_undefined",
        ):
            assert row[name] == doc[name], name
        assert bytes.fromhex(row["doc_id"].replace("-", "")) == doc["doc_id"]


def test_duplicate_marks(store: Store, demo, docs):
    rows = run_sql(
        store, "select is_keeper, is_exact_keeper, cluster_id, doc_id, duplicate_similarity s from demo order by shard, row"
    ).to_pylist()
    assert [number for number, row in enumerate(rows) if not row["is_keeper"]] == [1, 2, 20, 21]
    assert [number for number, row in enumerate(rows) if not row["is_exact_keeper"]] == [1, 2]
    first = docs[0]["doc_id"].hex()
    for number, row in enumerate(rows):
        together = number in (0, 1, 2, 20, 21)  # exact copies of 1 belong to its near-duplicate cluster
        assert row["cluster_id"].replace("-", "") == (first if together else row["doc_id"].replace("-", ""))
        assert row["s"] == (1.0 if number < 3 else 0.875 if together else None)


def test_licence_and_first_occurrence(store: Store, demo, docs):
    rows = run_sql(store, "select licence, origin, path, revision, n_occurrences from demo order by shard, row").to_pylist()
    assert rows[5]["licence"] == "(Apache-2.0 OR GPL-2.0-only) AND MIT"
    assert rows[6]["licence"] == "MIT"
    assert rows[11]["licence"] is None
    assert (rows[5]["origin"], rows[5]["path"], rows[5]["revision"]) == ("https://another.example/fork", "copy.py", "swh:1:rev:a")
    assert [row["n_occurrences"] for row in rows] == [2 if number == 5 else 1 for number in range(len(docs))]


def test_schema_holds_the_tables(store: Store, demo, docs):
    count = lambda name: run_sql(store, f"select count(*) n from demo.{name}").to_pylist()[0]["n"]  # noqa: E731
    counts = {
        name: count(name)
        for name in ("documents", "occurrences", "licences", "rejects", "signals", "duplicates", "signals_words")
    }
    expected = {
        "documents": 75,
        "occurrences": 76,
        "licences": 12,
        "rejects": 1,
        "signals": 75,
        "duplicates": 6,
        "signals_words": 75,
    }
    assert counts == expected
    by_source = run_sql(store, "select source, count(*) n, sum(n_tokens) t from demo group by all").to_pylist()
    assert {row["source"]: row["n"] for row in by_source} == dict(Counter(doc["source"] for doc in docs))
    assert {row["source"]: row["t"] for row in by_source}["web"] == sum(doc["n_tokens"] for doc in docs if doc["source"] == "web")


def test_corpus_without_signals_duplicates_or_licences(store: Store, docs, corpus_saver):
    corpus_saver("plain", docs, families=())
    rows = run_sql(store, "select is_keeper, cluster_id, doc_id, licence, origin, n_occurrences from plain").to_pylist()
    assert len(rows) == 75
    assert all(
        row["is_keeper"] and row["cluster_id"] == row["doc_id"] and row["licence"] is None and row["n_occurrences"] == 0
        for row in rows
    )
    assert run_sql(store, "select count(*) n from plain.duplicates").to_pylist() == [{"n": 0}]
    with connect(store) as connection:
        assert "n_words" not in [row[0] for row in connection.execute("describe plain").fetchall()]


def test_family_that_lacks_a_shard_is_null_there(store: Store, docs, corpus_saver):
    named = corpus_saver("demo", docs)
    parts = [part for part in named.parts if not (part.step == "signals.words" and part.shard == "web/00001")]
    store.save_named("corpus", "demo", parts, {})
    rows = run_sql(store, "select shard, count(*) n, count(mean_word_length) m from demo group by all order by all").to_pylist()
    assert [row["n"] for row in rows] == [20, 30, 25]
    assert rows[2]["m"] == 0 < rows[1]["m"]


@pytest.mark.parametrize("name", ["select", "my-corpus", "Group", "order"])
def test_awkward_names_work_quoted(store: Store, docs, corpus_saver, name):
    corpus_saver(name, docs[:20])
    assert run_sql(store, f'select count(*) n from "{name}"').to_pylist() == [{"n": 20}]
    assert run_sql(store, f'select count(*) n from "{name}".documents').to_pylist() == [{"n": 20}]


@pytest.mark.parametrize("name", ["runs", "main", "catalog", "Losses"])
def test_taken_names_get_a_prefix(store: Store, docs, corpus_saver, name):
    corpus_saver(name, docs[:20])
    assert run_sql(store, "select name, relation from corpora").to_pylist() == [{"name": name, "relation": f"corpus_{name}"}]
    assert run_sql(store, f"select count(*) n from corpus_{name}").to_pylist() == [{"n": 20}]


def test_names_that_differ_in_case_alone(store: Store, docs, corpus_saver):
    corpus_saver("Demo", docs[:20])
    corpus_saver("demo", docs)
    rows = run_sql(store, "select relation, n_documents n from corpora order by n").to_pylist()
    assert rows == [{"relation": "Demo", "n": 20}, {"relation": "corpus_demo", "n": 75}]
    assert run_sql(store, "select count(*) n from corpus_demo").to_pylist() == [{"n": 75}]


def test_things_and_lineage(store: Store, lineage):
    (corpus,) = run_sql(store, "select name, recipe, n_shards, n_documents, n_rejected, n_tokens from corpora").to_pylist()
    assert corpus == {"name": "demo", "recipe": "test", "n_shards": 3, "n_documents": 75, "n_rejected": 1, "n_tokens": None}
    assert run_sql(store, "select name, subset, seed, steps, base from runs").to_pylist() == [
        {"name": "small", "subset": "clean", "seed": 3, "steps": 2, "base": None}
    ]
    assert run_sql(store, "select run, step, loss from losses order by step").to_pylist()[1] == {
        "run": "small",
        "step": 2,
        "loss": 1.0,
    }
    rows = run_sql(store, 'select tokens, split, document, row, "offset" from token_documents order by document').to_pylist()
    assert rows == [
        {"tokens": "clean", "split": "train", "document": 0, "row": 3, "offset": 30},
        {"tokens": "clean", "split": "train", "document": 1, "row": 4, "offset": 40},
    ]
    assert run_sql(store, "select size_bytes, loss_delta, meta->>'base' b from deltas").to_pylist() == [
        {"size_bytes": 10, "loss_delta": 3.5, "b": "base"}
    ]
    n_parts = sum(len(named.parts) for kind in ("corpus", "tokens", "run") for named in store.named(kind))
    (row,) = run_sql(store, "select count(*) n, sum(size_bytes) s, sum((stats->>'n_rows')::int) r from artifacts").to_pylist()
    assert row["n"] == n_parts
    assert row["s"] == sum(store.load(folder).size_bytes for folder in store.folders())
    assert row["r"] > 75
    steps = run_sql(store, "select step, count(*) n, min(seconds) s from step_seconds group by all").to_pylist()
    assert {row["step"]: row["n"] for row in steps}["read"] == 3
    assert all(row["s"] >= 0 for row in steps)


def test_empty_store_has_all_relations(store: Store):
    for name in (
        "corpora",
        "subsets",
        "subset_documents",
        "tokens",
        "token_documents",
        "run_documents",
        "token_spans",
        "runs",
        "losses",
        "document_losses",
        "deltas",
        "replays",
        "evaluations",
        "samples",
        "artifacts",
        "parts",
        "step_seconds",
    ):
        assert run_sql(store, f"from {name}").num_rows == 0
    assert run_sql(store, "from subset_documents").schema.field("weight").type == pa.float32()


def test_connection_is_offline_and_takes_no_python_names(store: Store, demo):
    docs = "shadow"  # noqa: F841
    with connect(store) as connection:
        settings = dict(connection.execute("select name, value from duckdb_settings()").fetchall())
        assert settings["autoinstall_known_extensions"] == settings["autoload_known_extensions"] == "false"
        with pytest.raises(duckdb.CatalogException):
            connection.execute("from docs")
    assert not (store.root / "catalog").exists()


def test_missing_file_is_named(store: Store, demo):
    path = store.artifact(demo.of("read")[0]).path
    (path / "documents.parquet").unlink()
    with pytest.raises(StoreError, match=r"documents\.parquet"):
        run_sql(store, "select count(*) from demo")
