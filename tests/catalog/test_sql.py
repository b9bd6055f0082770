"""`run_sql`: what it answers, what it refuses, and how it complains."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest

from tilth.artifacts import Store
from tilth.catalog.sql import plain_table, run_sql
from tilth.errors import QueryError


@pytest.mark.parametrize(
    "query",
    [
        "select 1",
        "from demo limit 1",
        "with a as (select 1 x) from a",
        "describe demo",
        "summarize select n_words from demo",
        "show tables",
        "show all tables",
        "explain select count(*) from demo",
        "explain analyze select count(*) from demo",
        "values (1), (2)",
        "table corpora",
        "pivot (select source, n_words from demo) on source using sum(n_words)",
        "(select 1) union all select 2;",
        "select * from information_schema.columns where table_name = 'demo'",
    ],
)
def test_questions_are_answered(store: Store, demo, query):
    assert run_sql(store, query).num_rows > 0


@pytest.mark.parametrize(
    "query",
    [
        "copy (select 1) to 'out.csv'",
        "COPY demo TO 'out.parquet'",
        "export database 'out'",
        "attach 'out.duckdb'",
        "explain analyze copy (select 1) to 'out.csv'",
        "/* why */ explain analyze copy (select 1) to 'out.csv'",
        "create table x as select 1",
        "create table x as select 1; select 1",
        "insert into corpora select * from corpora",
        "drop view demo",
        "update corpora set name = 'x'",
        "install fts",
        "set threads = 1",
        "pivot (select 1 a) on a; copy (select 1) to 'out.csv'",
    ],
)
def test_statements_that_write_are_refused(store: Store, demo, query, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(QueryError) as caught:
        run_sql(store, query)
    if "copy (" in query[:6] or "export" in query:
        assert "--parquet" in str(caught.value)
        assert "--csv" in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == [store.root.name]


@pytest.mark.parametrize(
    ("query", "what", "where", "fix"),
    [
        (
            "select n_wrods from demo",
            'Referenced column "n_wrods" not found',
            "line 1, column 8: n_wrods from demo",
            "Did you mean `n_words`?",
        ),
        ("select 1 from demoo", "Table with name demoo does not exist", "line 1, column 15: demoo", "Did you mean `demo`?"),
        ("select *\nfrom demo.documens", "documens does not exist", "line 2, column 6", "Did you mean `documents`?"),
        ("select * form demo", 'syntax error at or near "demo"', "line 1, column 15: demo", None),
        (
            "select lenth(text) from demo",
            "Scalar Function with name lenth does not exist",
            "line 1, column 8",
            "Did you mean `length`?",
        ),
        ("select text::int from demo", "Could not convert string", None, None),
        ("", "there is no question", "(empty)", None),
        ("select 1; select 2", "one question at a time", None, None),
    ],
)
def test_typos_are_named_with_place_and_fix(store: Store, demo, query, what, where, fix):
    with pytest.raises(QueryError) as caught:
        run_sql(store, query)
    assert what in caught.value.what
    assert "LINE" not in caught.value.what
    assert where is None or where in (caught.value.where or "")
    assert fix is None or caught.value.fix == fix
    assert len(str(caught.value).splitlines()) <= 3


def test_every_value_turns_into_json(store: Store, demo):
    query = "select sum(n_words) s, [sum(n_words)] l, {'a': sum(n_words)} r, 1.5 d, doc_id, meta from demo group by all"
    table = run_sql(store, query)
    assert table.schema.field("s").type == pa.int64()
    assert table.schema.field("d").type == pa.float64()
    json.dumps(table.to_pylist())


def test_numbers_beyond_int64_keep_their_digits(store: Store):
    big = 2**100
    assert run_sql(store, f"select {big}::hugeint h, [{big}::hugeint] l").to_pylist() == [{"h": str(big), "l": [str(big)]}]


def test_columns_of_one_name_are_told_apart(store: Store):
    assert run_sql(store, "select 1 a, 2 a, 3 a_1, 4 a").to_pylist() == [{"a": 1, "a_2": 2, "a_1": 3, "a_3": 4}]


def test_plain_table_leaves_other_types_alone():
    table = pa.table({"a": pa.array([1], pa.int8()), "b": pa.array(["x"])})
    assert plain_table(table).equals(table)
