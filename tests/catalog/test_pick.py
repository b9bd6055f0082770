"""`pick` against brute force in Python, and what it refuses."""

from __future__ import annotations

import hashlib
import json
import tempfile
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilth.artifacts import Store
from tilth.catalog.pick import pick
from tilth.catalog.sql import run_sql
from tilth.contracts import SUBSET, check, uuid_bytes
from tilth.errors import NotFoundError, QueryError, SubsetError

COLUMNS = ("n_words", "mean_word_length", "lid_score")
OPERATORS = {
    ">": lambda a, b: a > b,
    "<=": lambda a, b: a <= b,
    "=": lambda a, b: a == b,
    "<>": lambda a, b: a != b,
}


def subset_rows(store: Store, name: str) -> list[dict[str, Any]]:
    named = store.get_named("subset", name)
    table = pq.read_table(store.artifact(named.one("pick")).path / "subset.parquet")
    check(table, SUBSET)
    ids = uuid_bytes(table.column("doc_id"))
    return [{**row, "doc_id": doc_id} for row, doc_id in zip(table.drop_columns(["doc_id"]).to_pylist(), ids, strict=True)]


def judge(doc: dict[str, Any], clause: tuple[str, str, float]) -> bool | None:
    column, operator, value = clause
    return None if doc[column] is None else OPERATORS[operator](doc[column], value)


def both(answers: list[bool | None]) -> bool | None:
    """SQL's AND."""
    return False if False in answers else None if None in answers else True


clauses_strategy = st.lists(
    st.tuples(st.sampled_from(COLUMNS), st.sampled_from(sorted(OPERATORS)), st.sampled_from([0, 0.5, 1, 4, 5.5, 8])),
    min_size=1,
    max_size=4,
    unique=True,
)


@settings(max_examples=15, deadline=None)
@given(clauses=clauses_strategy, data=st.data())
def test_counts_of_clauses_equal_brute_force(clauses, data, new_document, corpus_builder):
    texts = data.draw(
        st.lists(st.sampled_from(["", "a", "soil seed", "soil seed rain plough", "x" * 9]), min_size=1, max_size=12)
    )
    rng = data.draw(st.randoms(use_true_random=False))
    docs = [new_document("web/00000", row, text, rng) for row, text in enumerate(texts)]
    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder)
        corpus_builder(store, "demo", docs)
        where = " and ".join(f"{column} {operator} {value}" for column, operator, value in clauses)
        answers = [[judge(doc, clause) for clause in clauses] for doc in docs]
        kept = [doc for doc, given in zip(docs, answers, strict=True) if both(given) is True]
        if not kept:
            with pytest.raises(SubsetError, match=f"selects none of {len(docs)} documents"):
                pick(store, "demo", "clean", where)
            return
        picked = pick(store, "demo", "clean", where)
        assert [row["row"] for row in subset_rows(store, "clean")] == [doc["row"] for doc in kept]

    def same(counts, wanted):
        chosen = [doc for doc, given in zip(docs, answers, strict=True) if wanted(given)]
        expected = (len(chosen), sum(doc["n_bytes"] for doc in chosen), sum(doc["n_tokens"] for doc in chosen))
        assert (counts.n_documents, counts.n_bytes, counts.n_tokens) == expected

    cuts = picked.cuts
    same(cuts.before, lambda given: True)
    same(cuts.after, lambda given: both(given) is True)
    same(cuts.failed, lambda given: both(given) is False)
    same(cuts.unknown, lambda given: both(given) is None)
    assert len(cuts.clauses) == len(clauses)
    for number, cut in enumerate(cuts.clauses):
        same(cut.failed, lambda given, number=number: given[number] is False)
        same(cut.unknown, lambda given, number=number: given[number] is None)
        same(
            cut.alone,
            lambda given, number=number: (
                given[number] is not True and all(answer is True for at, answer in enumerate(given) if at != number)
            ),
        )
    drops = [sum(given[number] is not True for given in answers) for number in range(len(clauses))]
    assert (cuts.biggest.n_dropped if cuts.biggest else 0) == max(drops)


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**40), share=st.floats(0.05, 0.9), sizes=st.lists(st.integers(1, 4), min_size=3, max_size=12))
def test_splits_never_cross_clusters(seed, share, sizes, new_document, corpus_builder, new_mark):
    import random

    docs, marks, cluster_of = [], [], {}
    for cluster, size in enumerate(sizes):
        first = len(docs)
        for _ in range(size):
            docs.append(new_document("web/00000", len(docs), f"text {len(docs)}", random.Random(0)))
            cluster_of[docs[-1]["doc_id"]] = cluster
            if size > 1:
                marks.append(new_mark(docs[-1], "minhash", docs[first], len(docs) - 1 == first, 0.9))
    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder)
        corpus_builder(store, "demo", docs, marks={"minhash": marks} if marks else None)
        picked = pick(store, "demo", "all", "true", validation_share=share, seed=seed)
        rows = subset_rows(store, "all")
    splits: dict[int, set[str]] = {}
    for row in rows:
        splits.setdefault(cluster_of[row["doc_id"]], set()).add(row["split"])
    assert len(rows) == len(docs)
    assert all(len(found) == 1 for found in splits.values())
    assert picked.n_validation == sum(row["split"] == "validation" for row in rows) == len(docs) - picked.n_train


def test_subset_holds_the_rows_in_order_with_tokens(store: Store, demo, docs):
    picked = pick(store, "demo", "clean", "n_words >= 3 and is_keeper")
    expected = [doc for number, doc in enumerate(docs) if (doc["n_words"] or 0) >= 3 and number not in (1, 2, 20, 21)]
    rows = subset_rows(store, "clean")
    assert [(row["doc_id"], row["shard"], row["row"], row["n_tokens"]) for row in rows] == [
        (doc["doc_id"], doc["shard"], doc["row"], doc["n_tokens"]) for doc in expected
    ]
    assert {row["split"] for row in rows} == {"train"}
    assert {row["weight"] for row in rows} == {1.0}
    assert (picked.n_documents, picked.n_tokens) == (len(expected), sum(doc["n_tokens"] for doc in expected))
    (row,) = run_sql(store, 'select *, "where" w from subsets').to_pylist()
    assert (row["corpus"], row["n_documents"], row["n_tokens_before"]) == (
        "demo",
        len(expected),
        sum(doc["n_tokens"] for doc in docs),
    )
    assert row["w"] == picked.where == "n_words >= 3 and is_keeper"
    joined = run_sql(
        store,
        "select count(*) n, sum(d.n_bytes) b from subset_documents s join demo d using (shard, row) where s.subset = 'clean'",
    )
    assert joined.to_pylist() == [{"n": len(expected), "b": picked.n_bytes}]


def test_repetition_gives_the_same_bytes_and_threads_do_not_matter(
    store: Store, demo, docs, tmp_path, corpus_builder, monkeypatch
):
    files = []
    for number, threads in enumerate((4, 1)):
        monkeypatch.setattr("os.sched_getaffinity", lambda _, threads=threads: set(range(threads)))
        other = Store(tmp_path / f"other{number}")
        corpus_builder(other, "demo", docs)
        picked = pick(other, "demo", "a", "n_words>1", max_tokens=400, validation_share=0.3, seed=5)
        folder = other.artifact(picked.named.one("pick")).path
        files.append([(folder / name).read_bytes() for name in ("subset.parquet", "pick.json")])
    assert files[0] == files[1]
    again = pick(other, "demo", "b", "  n_words   > 1 ", max_tokens=400, validation_share=0.3, seed=5)
    assert again.named.one("pick") == picked.named.one("pick")


def test_budget_takes_a_prefix_in_an_order_of_its_own(store: Store, demo, docs):
    all_rows = subset_rows(store, pick(store, "demo", "all", "is_keeper").named.name)
    sizes = {row["doc_id"]: row["n_tokens"] for row in all_rows}
    some = {row["doc_id"] for row in subset_rows(store, pick(store, "demo", "some", "is_keeper", max_tokens=300).named.name)}
    more = {row["doc_id"] for row in subset_rows(store, pick(store, "demo", "more", "is_keeper", max_tokens=600).named.name)}
    other = {
        row["doc_id"] for row in subset_rows(store, pick(store, "demo", "other", "is_keeper", max_tokens=300, seed=1).named.name)
    }
    assert some < more < set(sizes)
    assert other != some
    assert 300 - max(sizes.values()) < sum(sizes[doc_id] for doc_id in some) <= 300


def test_only_used_parts_make_a_subset_stale(store: Store, demo, docs, corpus_builder):
    before = pick(store, "demo", "a", "n_words > 1").named.one("pick")
    changed = [{**doc, "lid_score": 0.125} for doc in docs]
    named = corpus_builder(store, "demo", changed)
    without_marks = pick(store, "demo", "a", "n_words > 1").named.one("pick")
    kept = [part for part in named.parts if part.step == "signals.language"]
    store.save_named("corpus", "demo", [part for part in demo.parts if part.step != "signals.language"] + kept, {})
    assert pick(store, "demo", "a", "n_words > 1").named.one("pick") == before != without_marks
    assert pick(store, "demo", "a", "lid_score > 0").n_documents == len(docs)


def test_function_clauses_lambdas_and_qualified_names(store: Store, demo, docs):
    listed = "len(list_filter([n_words], lambda n: n > 3)) = 1"
    where = f"demo.n_words > 1 and contains(text, 'soil') and meta['kind'] = 'test' and {listed}"
    expected = [doc for doc in docs if (doc["n_words"] or 0) > 3 and "soil" in doc["text"]]
    picked = pick(store, "demo", "clean", where)
    assert picked.n_documents == len(expected)
    assert len(picked.cuts.clauses) == 4


def test_awkward_corpus_name(store: Store, docs, corpus_saver):
    corpus_saver("my-select", docs)
    assert pick(store, "my-select", "clean", '"my-select".n_words > 1').n_documents == sum(
        (doc["n_words"] or 0) > 1 for doc in docs
    )


def test_nothing_selected_names_the_clause_that_cut_most(store: Store, demo):
    with pytest.raises(SubsetError) as caught:
        pick(store, "demo", "clean", "n_words > 3 and n_bytes < 0")
    assert "none of 75 documents" in caught.value.what
    assert "`n_bytes < 0` drops 75" in str(caught.value.where)
    assert store.find_named("subset", "clean") is None


def test_lost_to_null_is_said(store: Store, demo, docs):
    with pytest.raises(SubsetError, match=r"of them because it is null"):
        pick(store, "demo", "clean", "n_words < 0")


def test_same_document_twice_is_refused(store: Store, docs, new_document, corpus_saver):
    import random

    twice = [new_document(f"code/0000{number}", 0, "the same text", random.Random(0)) for number in (0, 1)]
    corpus_saver("demo", twice)
    with pytest.raises(SubsetError, match="selected more than once") as caught:
        pick(store, "demo", "clean", "true")
    assert "exact deduplication" in str(caught.value.fix)
    assert "code/00000:0, code/00001:0" in str(caught.value.where)


def test_same_document_twice_with_marks_names_is_keeper(store: Store, new_document, corpus_saver, new_mark):
    import random

    twice = [new_document(f"code/0000{number}", 0, "the same text", random.Random(0)) for number in (0, 1)]
    corpus_saver("demo", twice, marks={"exact": [new_mark(doc, "exact", twice[0], doc is twice[0]) for doc in twice]})
    with pytest.raises(SubsetError) as caught:
        pick(store, "demo", "clean", "true")
    assert caught.value.fix == "Add `and is_keeper` to the predicate."
    assert pick(store, "demo", "clean", "is_keeper").n_documents == 1


@pytest.mark.parametrize(
    ("where", "what", "place"),
    [
        ("n_wrods > 3", "n_wrods", "line 1, column 1"),
        ("n_words > 3 and\n  is_keper", "is_keper", "line 2, column 3"),
        ("n_words >", "syntax error", "line 1"),
        ("n_words > 'x'", "Could not convert", None),
        ("n_words > 3; drop view demo", "more than a predicate", None),
        ("n_words > 3;", "without `;`", None),
        ("", "not empty", "(empty)"),
        ("n_words > (select 3)", "a subquery", "line 1"),
        ("sum(n_words) > 3", "`sum`: it speaks of many", "line 1, column 1"),
        ("row_number() over () > 3", "a window function", "line 1, column 1"),
        ("columns(*) is not null", "columns(...)", "line 1"),
        ("random() < 0.5", "`random`: it does not give the same answer", "line 1, column 1"),
        ("current_date > '2020-01-01'", "`current_date`", "line 1, column 1"),
        ("n_words > 3 limit 2", "more than a predicate", None),
        ("n_words > 3 union select 1", "more than a predicate", None),
        ("text::int > 3", "Could not convert", 'CAST("text" AS INTEGER) > 3'),
        ("n_words", "a value of type BIGINT", "n_words"),
        ("is_keeper and text", "a value of type VARCHAR", "text"),
    ],
)
def test_bad_predicates(store: Store, demo, where, what, place):
    with pytest.raises(QueryError) as caught:
        pick(store, "demo", "clean", where)
    assert what in caught.value.what
    assert place is None or place in str(caught.value.where)
    assert len(str(caught.value).splitlines()) <= 4


@pytest.mark.parametrize(
    ("where", "fix"),
    [
        ("n_wrods > 3", "Did you mean `n_words`?"),
        ('source = "prose"', "Text stands in single quotes: 'prose'"),
        ("perplexity > 3", "describe CORPUS"),
        ("text::int > 3", "try_cast"),
    ],
)
def test_bad_predicates_say_what_to_type(store: Store, demo, where, fix):
    with pytest.raises(QueryError) as caught:
        pick(store, "demo", "clean", where)
    assert fix in str(caught.value.fix)


def test_budget_needs_token_counts(store: Store, docs, corpus_saver):
    corpus_saver("plain", docs, families=("words",))
    assert pick(store, "plain", "clean", "n_words > 1").n_tokens is None
    with pytest.raises(SubsetError, match="no token count"):
        pick(store, "plain", "clean", "n_words > 1", max_tokens=10)


def test_other_bad_arguments(store: Store, demo):
    with pytest.raises(NotFoundError, match="demo"):
        pick(store, "demi", "clean", "true")
    with pytest.raises(SubsetError, match="validation_share"):
        pick(store, "demo", "clean", "true", validation_share=1.0)
    with pytest.raises(SubsetError, match="budget"):
        pick(store, "demo", "clean", "n_words > 30", max_tokens=1)


def test_file_says_what_made_it(store: Store, demo):
    picked = pick(store, "demo", "clean", "n_words > 1")
    artifact = store.artifact(picked.named.one("pick"))
    metadata = pq.read_schema(artifact.path / "subset.parquet").metadata
    assert metadata[b"tilth.contract"] == b"subset/1"
    assert metadata[b"tilth.where"] == b"n_words > 1"
    assert json.loads(metadata[b"tilth.inputs"]) == dict(artifact.spec.inputs)
    assert {part.step for part in picked.named.parts} == {
        "pick",
        "read",
        "signals.words",
        "signals.tokens",
        "dedup.exact",
        "dedup.minhash",
        "dedup.keepers",
    }


def test_golden_rows(store: Store, demo):
    """These change only with a new VERSION of the step: DuckDB's or Arrow's version must not move a document."""
    pick(store, "demo", "clean", "n_words > 1 and is_keeper", max_tokens=500, validation_share=0.3, seed=11)
    rows = [f"{row['shard']}:{row['row']}:{row['split']}" for row in subset_rows(store, "clean")]
    assert hashlib.sha256("\n".join(rows).encode()).hexdigest()[:16] == "b0c2ae128eab1f69"
