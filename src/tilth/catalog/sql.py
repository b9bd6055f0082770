"""`tilth sql`: one question, one Arrow table; nothing on disk is changed by it."""

from __future__ import annotations

import re
from typing import Any

import duckdb
import pyarrow as pa

from tilth.artifacts import Store
from tilth.catalog.complaints import complain
from tilth.catalog.connect import connect, stopping
from tilth.catalog.policies import POLICIES, expand_known_policies, names_policies
from tilth.catalog.project import relation_names
from tilth.errors import QueryError

_EXPLAIN = re.compile(r"^\s*explain\s+(analyze\s+)?(\([^)]*\)\s*)?", re.IGNORECASE)
_PIVOTS = (["CREATE", "SELECT"], ["MULTI"])  # PIVOT makes a type in memory first: two statements in DuckDB 1, one in DuckDB 2
_TO_FILE = "Save the answer with `tilth sql QUERY --parquet FILE` or `--csv > FILE`."
_OWN_DATABASE = (
    "The catalog is a projection that is rebuilt; keep tables of your own in a DuckDB file and attach the catalog there."
)


def run_sql(store: Store, query: str) -> pa.Table:
    """Answer `query` over everything in the store.

    UUIDs come as strings, HUGEINT (DuckDB's sums) as int64 (as text where it does not fit) and DECIMAL as
    float64, so that every value prints and turns into JSON; of two columns named `a` the second is `a_1`.
    A named policy stands for its condition: `where @gopher`.
    Raises QueryError for what DuckDB refuses and for statements that would write.
    """
    corpora = _mentioned(store, query)
    with connect(store, corpora=corpora) as connection, stopping(connection):
        query = _with_policies(connection, store, query)
        try:
            _refuse_writing(connection, query)
            answer = connection.sql(query)
            if answer is None:
                raise QueryError(
                    "there is no question in this", where=query.strip()[:80] or "(empty)", fix='Try `tilth sql "from corpora"`.'
                )
            return plain_table(answer.to_arrow_table())
        except duckdb.Error as error:
            known = _known_names(connection) | {named.name for named in store.named("corpus")}
            known |= POLICIES.keys() if "@" in query else set()
            located, first_line = _located(connection, query, error)
            raise complain(located, known=known, first_line=first_line, store_root=store.root) from error


def plain_table(answer: pa.Table) -> pa.Table:
    """Cast the decimals of `answer`, also nested ones, to numbers that JSON has, and make its column names differ."""
    columns = []
    for column in answer.columns:
        wanted = _plain_type(column.type)
        try:
            columns.append(column if wanted == column.type else column.cast(wanted))
        except pa.ArrowInvalid:  # beyond int64: text keeps every digit
            columns.append(column.cast(_plain_type(column.type, whole=pa.string())))
    return pa.table(columns, names=_distinct(answer.column_names))


def _distinct(names: list[str]) -> list[str]:
    """As DuckDB does for a table: `a`, `a_1`, `a_2`."""
    chosen: dict[str, None] = {}
    for name in names:
        candidate, number = name, 0
        while candidate in chosen or (number and candidate in names):
            number += 1
            candidate = f"{name}_{number}"
        chosen[candidate] = None
    return list(chosen)


def _plain_type(kind: pa.DataType, whole: pa.DataType | None = None) -> Any:
    if pa.types.is_decimal(kind):
        return (whole or pa.int64()) if kind.scale == 0 else pa.float64()
    if pa.types.is_list(kind):
        return pa.list_(_plain_type(kind.value_type, whole))
    if pa.types.is_struct(kind):
        return pa.struct([pa.field(field.name, _plain_type(field.type, whole)) for field in kind])
    return kind


def _mentioned(store: Store, query: str) -> list[str] | None:
    """Corpora that the query may name; all of them for questions about the catalog itself.

    Views over a thousand shards cost a second to make, so those that cannot matter are not made.
    """
    text = query.lower()
    if re.search(r"\b(show|describe|desc|pragma|information_schema|duckdb_\w+|pg_\w+|sqlite_\w+)\b", text):
        return None
    return [named.name for named in store.named("corpus") if named.name.lower() in text]


def _with_policies(connection: duckdb.DuckDBPyConnection, store: Store, query: str) -> str:
    """The query with the policies that it names, over the columns of the corpus that it asks.

    Raises QueryError where that corpus lacks signals, or where several would each need another condition.
    """
    if not names_policies(query):
        return query
    found: dict[str, str] = {}
    refused: list[QueryError] = []
    for corpus, relation in relation_names(named.name for named in store.named("corpus")).items():
        if not re.search(rf"(?<![\w@-]){re.escape(relation)}(?![\w-])", query, re.IGNORECASE):
            continue
        columns = connection.execute(
            "select column_name from duckdb_columns() where schema_name = 'main' and table_name = ?", [relation]
        ).fetchall()
        try:
            found.setdefault(expand_known_policies(query, [name for (name,) in columns], corpus), corpus)
        except QueryError as error:
            refused.append(error)
    if len(found) > 1:
        where = ", ".join(f"`{corpus}`" for corpus in found.values())
        raise QueryError("a policy means another condition in each of these corpora", where, "Ask about one at a time.")
    if not found and refused:
        raise refused[0]
    return next(iter(found), query)


def _refuse_writing(connection: duckdb.DuckDBPyConnection, query: str) -> None:
    kinds = [statement.type.name for statement in connection.extract_statements(query)]
    words = query.split()
    if kinds == ["EXPLAIN"]:
        # EXPLAIN ANALYZE runs what it explains.
        explained = _EXPLAIN.sub("", query, count=1)
        if explained != query:
            return _refuse_writing(connection, explained)
    is_pivot = kinds in _PIVOTS and "pivot" in query.lower()
    if not kinds or kinds == ["SELECT"] or is_pivot:
        return None
    where = " ".join(words)[:80]
    if len(kinds) > 1:
        raise QueryError(
            "one question at a time", where=f"{len(kinds)} statements in {where}", fix="Ask the others in further calls."
        )
    fix = _TO_FILE if kinds[0] in ("COPY", "EXPORT") else _OWN_DATABASE
    raise QueryError(f"`tilth sql` answers questions and runs no {words[0].upper()}", where=where, fix=fix)


def _located(connection: duckdb.DuckDBPyConnection, query: str, error: duckdb.Error) -> tuple[duckdb.Error, int]:
    """The same error with its place, which DuckDB's relational interface omits, and the line where the query begins there."""
    try:
        connection.execute(f"explain\n{query}")
    except duckdb.Error as located:
        if type(located) is type(error) and str(located).startswith(str(error).split("\n")[0]):
            return located, 2
    return error, 1


def _known_names(connection: duckdb.DuckDBPyConnection) -> set[str]:
    views = "select view_name from duckdb_views() where not internal union select table_name from duckdb_tables()"
    return {name for (name,) in connection.execute(views).fetchall()}
