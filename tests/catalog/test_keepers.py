"""Keepers against a plain computation: one for every cluster, whatever the methods marked and whatever the rule says."""

from __future__ import annotations

import random
import tempfile
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilth.artifacts import Named, Store
from tilth.catalog.keeper_rule import check_keeper_rule, parse_keeper_rule
from tilth.catalog.keepers import _join_clusters, keeper_rule_of
from tilth.catalog.pick import pick
from tilth.catalog.sql import run_sql
from tilth.catalog.trace import documents_at
from tilth.errors import QueryError, StoreError

Row = dict[str, Any]
METHODS = ("exact", "minhash", "semantic")
COLUMNS = pa.schema(
    {"source": pa.string(), "n_chars": pa.int64(), "n_tokens": pa.int64(), "quality_score": pa.float32(), "licence": pa.string()}
)
NULL_LAST = float("inf")


def descending(value: float | None) -> float:
    return NULL_LAST if value is None else -value


RULES: dict[tuple[str, ...], Callable[[Row], tuple[Any, ...]]] = {
    (): lambda doc: (),
    ("longest",): lambda doc: (-doc["n_chars"],),
    ("n_words desc",): lambda doc: (descending(doc["n_words"]),),
    ("lid_score desc, n_words",): lambda doc: (
        descending(doc["lid_score"]),
        NULL_LAST if doc["n_words"] is None else doc["n_words"],
    ),
    ("source:web", "length(text) % 3"): lambda doc: (0 if doc["source"] == "web" else 1, doc["n_chars"] % 3),
    ("n_words nulls first",): lambda doc: (-1 if doc["n_words"] is None else doc["n_words"],),
}


def components(memberships: list[tuple[int, str, int]], n: int) -> list[int]:
    """The smallest document that each one is connected with."""
    smallest = list(range(n))
    together = defaultdict(list)
    for document, method, cluster in memberships:
        together[method, cluster].append(document)
    changed = True
    while changed:
        changed = False
        for members in together.values():
            least = min(smallest[member] for member in members)
            changed |= any(smallest[member] != least for member in members)
            for member in members:
                smallest[member] = least
    return smallest


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), n_docs=st.integers(2, 24), rule=st.sampled_from(list(RULES)))
def test_every_cluster_has_exactly_one_keeper_the_first_in_the_order(
    seed: int,
    n_docs: int,
    rule: tuple[str, ...],
    new_document: Callable[..., Row],
    new_mark: Callable[..., Row],
    corpus_builder: Callable[..., Named],
) -> None:
    chance = random.Random(seed)
    places = [("code/00000", row) for row in range(n_docs // 2)] + [("web/00000", row) for row in range(n_docs - n_docs // 2)]
    docs = [new_document(shard, row, "soil " * chance.randrange(9), chance) for shard, row in places]
    for place, doc in enumerate(docs):
        doc["doc_id"] = place.to_bytes(16, "big")
    marks: dict[str, list[Row]] = {}
    memberships = []
    for method in METHODS:
        groups = defaultdict(list)
        for place in range(n_docs):
            groups[chance.randrange(n_docs)].append(place)
        for number, members in groups.items():
            if len(members) > 1:
                memberships += [(member, method, number) for member in members]
                own = [new_mark(docs[m], method, docs[members[0]], m == members[0], chance.random()) for m in members]
                marks.setdefault(method, []).extend(own)
    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder)
        corpus_builder(store, "demo", docs, marks=marks, keep=rule)
        rows = run_sql(store, "select * from demo order by shard, row").to_pylist()
        shown = run_sql(store, "select is_keeper, method from demo.duplicates order by shard, row, method").to_pylist()
    smallest = components([one for one in memberships if one[1] != "semantic"], n_docs)
    order = sorted(range(n_docs), key=lambda place: (*RULES[rule](docs[place]), place))
    first = {smallest[place]: place for place in reversed(order)}
    assert [row["is_keeper"] for row in rows] == [first[smallest[place]] == place for place in range(n_docs)]
    assert [int(row["cluster_id"].replace("-", ""), 16) for row in rows] == smallest
    first_of = {}
    for place in reversed(order):
        first_of |= {(method, cluster): place for document, method, cluster in memberships if document == place}
    wanted = [(first_of[method, cluster] == document, method) for document, method, cluster in sorted(memberships)]
    assert [(row["is_keeper"], row["method"]) for row in shown] == wanted
    for method in ("exact", "semantic"):
        if method in marks:
            dropped = {document for document, one, cluster in memberships if one == method and first_of[one, cluster] != document}
            assert [row[f"is_{method}_keeper"] for row in rows] == [place not in dropped for place in range(n_docs)]
    assert all(row["is_exact_keeper"] for row in rows if row["is_keeper"])


@settings(max_examples=40, deadline=None)
@given(pairs=st.lists(st.tuples(st.integers(1, 30), st.integers(1, 14)), min_size=1, max_size=60, unique=True))
def test_clusters_are_joined_along_any_chain(pairs: list[tuple[int, int]]) -> None:
    with duckdb.connect() as connection:
        values = ", ".join(f"({document}, {cluster})" for document, cluster in pairs)
        connection.execute(
            "create table deciding as select document::bigint as document, cluster::bigint as cluster, 0::bigint as component "
            f"from (values {values}) as v(document, cluster)"
        )
        _join_clusters(connection)
        found = connection.execute("select document, component from deciding order by document, cluster").fetchall()
    smallest = components([(document, "any", cluster) for document, cluster in pairs], 31)
    assert found == [(document, smallest[document]) for document, _ in sorted(pairs)]


def test_a_chain_of_a_thousand_clusters_is_one() -> None:
    with duckdb.connect() as connection:
        connection.execute(
            "create table deciding as select i + step as document, 1000 - i as cluster, 0::bigint as component "
            "from range(1, 1001) as r(i), (values (0), (1)) as s(step)"
        )
        _join_clusters(connection)
        assert connection.execute("select distinct component from deciding").fetchall() == [(1,)]


def test_the_most_permissive_licence_and_the_earliest_date(
    store: Store,
    docs: list[Row],
    demo: Named,
    keeper_chooser: Callable[..., Any],
) -> None:
    def kept(keep: str) -> set[int]:
        parts = [part for part in demo.parts if part.step != "dedup.keepers"]
        store.save_named("corpus", "demo", [*parts, keeper_chooser(store, parts, keep)])
        rows = run_sql(store, "select is_keeper from demo order by shard, row").to_pylist()
        return {number for number in (0, 1, 2, 20, 21) if rows[number]["is_keeper"]}

    assert kept("n_words desc, length(text)") != set()
    assert kept("most_permissive") == {0}  # 0, 1 and 2 are MIT, 20 and 21 have no licence
    assert kept("licence is null desc, row desc") == {21}
    assert kept("earliest") == {0}  # no dates: the first


def test_what_a_published_list_names_goes_unless_the_rule_says_otherwise(
    store: Store, docs: list[Row], new_mark: Callable[..., Row], corpus_saver: Callable[..., Named]
) -> None:
    marks = {"digest": [new_mark(docs[0], "digest", docs[0], False), new_mark(docs[1], "digest", docs[0], True)]}
    query = "select row from demo where is_keeper and source = 'code' and row < 2"
    corpus_saver("demo", docs, marks=marks)
    assert run_sql(store, query).to_pylist() == [{"row": 1}]
    corpus_saver("demo", docs, marks=marks, keep="row")
    assert run_sql(store, query).to_pylist() == [{"row": 0}]


def test_no_number_never_wins(
    store: Store, docs: list[Row], corpus_saver: Callable[..., Named], new_mark: Callable[..., Row]
) -> None:
    docs[0]["mean_word_length"], docs[1]["mean_word_length"] = float("nan"), 2.5
    marks = {"minhash": [new_mark(docs[number], "minhash", docs[0], number == 0) for number in (0, 1)]}
    for direction in ("desc", "asc"):
        corpus_saver("demo", docs, marks=marks, keep=f"mean_word_length {direction}")
        query = "select row from demo where is_keeper and source = 'code' and row < 2"
        assert run_sql(store, query).to_pylist() == [{"row": 1}]


def test_a_pick_and_a_trace_follow_the_rule(
    store: Store, docs: list[Row], demo: Named, keeper_chooser: Callable[..., Any]
) -> None:
    picked = pick(store, "demo", "first", "is_keeper")
    assert picked.named.meta["keepers"] == "the first by shard and row"
    assert "keepers" not in pick(store, "demo", "any", "n_words > 1").named.meta
    parts = [part for part in demo.parts if part.step != "dedup.keepers"]
    named = store.save_named("corpus", "demo", [*parts, keeper_chooser(store, parts, "row desc")])
    assert keeper_rule_of(store, named) == "row desc, then the first by shard and row"
    again = pick(store, "demo", "last", "is_keeper")
    assert again.named.meta["keepers"] == "row desc, then the first by shard and row"
    assert again.named.one("pick").digest != picked.named.one("pick").digest
    places = [(docs[number]["shard"], docs[number]["row"]) for number in (0, 2)]
    assert documents_at(store, "demo", places).column("is_keeper").to_pylist() == [False, True]
    assert documents_at(store, picked.named, places).column("is_keeper").to_pylist() == [True, False]


def test_marks_without_keepers_are_refused(store: Store, demo: Named) -> None:
    store.save_named("corpus", "demo", [part for part in demo.parts if part.step != "dedup.keepers"])
    with pytest.raises(StoreError, match="not which of them are kept") as caught:
        run_sql(store, "select count(*) from demo")
    assert "Build it again" in str(caught.value)


@pytest.mark.parametrize(
    ("keep", "what", "where", "fix"),
    [
        ("n_tokns desc", "n_tokns", "line 1, column 1: n_tokns desc", "`n_tokens`"),
        ("longst", "longst", "line 1, column 1: longst", "`longest`"),
        ("n_tokens desk", "syntax error", "line 1, column 10: desk", "longest"),
        ("n_tokens desc limit 3", "more than a keeper rule", "limit 3", "order by"),
        ("row_number() over ()", "a window function", "line 1", "order by"),
        ("max(n_tokens)", "`max`: it speaks of many documents", "line 1", "order by"),
        ("random()", "every time", "line 1", "order by"),
        ("1 desc", "the same for every document", "1", "order by"),
        ("is_keeper", "`is_keeper` follows from the rule", "is_keeper", "order by"),
        ("", "not empty", "(empty)", "order by"),
        ("source:", "a source has no name", "source:", "source:wikipedia"),
        ("n_tokens desc;", "without `;`", "n_tokens desc;", "order by"),
        ("sqrt(source)", "sqrt", "line 1", "tilth sql"),
    ],
)
def test_mistakes_are_told_in_three_lines(keep: str, what: str, where: str, fix: str) -> None:
    with pytest.raises(QueryError) as caught:
        check_keeper_rule(parse_keeper_rule(keep), COLUMNS, {"licence_strictness": len})
    lines = str(caught.value).splitlines()
    assert len(lines) == 3
    assert what in lines[0]
    assert where in lines[1]
    assert fix in lines[2]


@pytest.mark.parametrize(
    "keep", [(), "longest", "most_permissive", ("source:web", "best_quality", "n_tokens desc, source = 'x'")]
)
def test_rules_that_mean_something(keep: str | tuple[str, ...]) -> None:
    check_keeper_rule(parse_keeper_rule(keep), COLUMNS, {"licence_strictness": len})
