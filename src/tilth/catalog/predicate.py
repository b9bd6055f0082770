"""A curation predicate, parsed by DuckDB itself into the clauses that its top-level ANDs join."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import duckdb

from tilth.catalog.complaints import complain
from tilth.errors import QueryError

_PREFIX = "select 1 from documents where\n"
_NOT_A_CONDITION = {
    "SUBQUERY": "a subquery",
    "WINDOW": "a window function",
    "STAR": "`*` or `columns(...)`",
    "PARAMETER": "a parameter",
    "POSITIONAL_REFERENCE": "a positional reference",
    "DEFAULT": "`default`",
}
_CLOCKS = ("current_date", "current_time", "current_timestamp", "localtime", "localtimestamp")  # functions without parentheses
_VARIES = "does not give the same answer every time"
_ONE_DOCUMENT = "A predicate judges one document by its columns: comparisons and functions, joined by and, or, not."


@dataclass(frozen=True)
class Predicate:
    """`clauses` joined by AND are the predicate; all SQL is as DuckDB writes it, so that spaces and case do not matter."""

    clauses: tuple[str, ...]
    names: frozenset[str]  # every identifier in it, lower case: columns, and qualifiers or struct fields

    @property
    def sql(self) -> str:
        """The whole predicate, normalised."""
        return " and ".join(self.clauses)


def parse_predicate(connection: duckdb.DuckDBPyConnection, where: str) -> Predicate:
    """Parse `where`. Raises QueryError for what is not one condition on a document."""
    if not where.strip() or where.rstrip().endswith(";"):
        raise QueryError(
            "a predicate is one condition, not empty and without `;`", where=where.strip() or "(empty)", fix=_ONE_DOCUMENT
        )
    expression = _where_clause(connection, where)
    nodes = list(_walk(expression))
    _refuse_other_than_conditions(connection, nodes, where)
    names = frozenset(str(name).lower() for node in nodes if node.get("class") == "COLUMN_REF" for name in node["column_names"])
    clauses = dict.fromkeys(_without_outer_brackets(connection, _to_sql(connection, clause)) for clause in _conjuncts(expression))
    return Predicate(tuple(clauses), names)


def check_binds(
    connection: duckdb.DuckDBPyConnection, relation: str, where: str, predicate: Predicate, columns: Iterable[str]
) -> None:
    """Raise QueryError unless `where` means something for `columns` of `relation` (types, spelling, no aggregate)
    and each of its clauses is true or false: `n_tokens` alone, which DuckDB would take for `n_tokens <> 0`, is a slip."""
    try:
        connection.execute(f"explain select 1 from {relation} where\n{where}")
        clauses = ", ".join(f"({clause}) as clause_{number}" for number, clause in enumerate(predicate.clauses))
        kinds = [row[1] for row in connection.execute(f"describe select {clauses} from {relation}").fetchall()]
    except duckdb.Error as error:
        raise complain(error, known=columns, first_line=2) from error
    for clause, kind in zip(predicate.clauses, kinds, strict=True):
        if kind != "BOOLEAN":
            raise QueryError(f"this is no condition but a value of type {kind}", clause, f"Compare it, such as `{clause} > 0`.")


def _where_clause(connection: duckdb.DuckDBPyConnection, where: str) -> dict[str, Any]:
    parsed = _call_json(connection, "json_serialize_sql(?::varchar)", _PREFIX + where)
    if parsed["error"]:
        raise QueryError(_said(parsed["error_message"]), where=_place(where, parsed.get("position")), fix=_ONE_DOCUMENT)
    statements = parsed["statements"]
    node = statements[0]["node"]
    if len(statements) != 1 or not _is_bare_select(node):
        raise QueryError("this is more than a predicate", where=where.strip(), fix=_ONE_DOCUMENT)
    return dict(node["where_clause"])


def _is_bare_select(node: dict[str, Any]) -> bool:
    extras = ("modifiers", "group_expressions", "group_sets", "having", "qualify", "sample")
    return node["type"] == "SELECT_NODE" and bool(node.get("where_clause")) and not any(node.get(extra) for extra in extras)


def _refuse_other_than_conditions(connection: duckdb.DuckDBPyConnection, nodes: list[dict[str, Any]], where: str) -> None:
    for node in nodes:
        word = _NOT_A_CONDITION.get(str(node.get("class")))
        if word:
            raise QueryError(
                f"a predicate cannot hold {word}",
                where=_place(where, node.get("query_location"), len(_PREFIX)),
                fix=_ONE_DOCUMENT,
            )
    clocks = [node for node in nodes if node.get("class") == "COLUMN_REF" and str(node["column_names"][-1]).lower() in _CLOCKS]
    if clocks:
        at = _place(where, clocks[0].get("query_location"), len(_PREFIX))
        raise QueryError(f"a predicate cannot hold `{clocks[0]['column_names'][-1]}`: it {_VARIES}", where=at, fix=_ONE_DOCUMENT)
    called = {str(node["function_name"]).lower(): node for node in nodes if node.get("class") == "FUNCTION"}
    kinds = connection.execute(
        "select function_name, bool_or(function_type = 'aggregate'), bool_or(stability <> 'CONSISTENT') from duckdb_functions() "
        "where function_name in (select unnest(?::varchar[])) group by all order by all",
        [list(called)],
    ).fetchall()
    for name, is_aggregate, varies in kinds:
        if is_aggregate or varies:
            why = "speaks of many documents" if is_aggregate else _VARIES
            at = _place(where, called[name].get("query_location"), len(_PREFIX))
            raise QueryError(f"a predicate cannot hold `{name}`: it {why}", where=at, fix=_ONE_DOCUMENT)


def _conjuncts(expression: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if expression.get("type") == "CONJUNCTION_AND":
        for child in expression["children"]:
            yield from _conjuncts(child)
    else:
        yield expression


def _walk(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        yield node
        for child in node.values():
            yield from _walk(child)
    elif isinstance(node, list):
        for child in node:
            yield from _walk(child)


def _to_sql(connection: duckdb.DuckDBPyConnection, expression: dict[str, Any]) -> str:
    # DuckDB turns whole statements back into SQL, so the clause becomes the only column of one.
    statement = _call_json(connection, "json_serialize_sql(?::varchar)", "select 1")
    statement["statements"][0]["node"]["select_list"] = [expression]
    row = connection.execute("select json_deserialize_sql(?::json)", [json.dumps(statement)]).fetchone()
    return str(row[0] if row else "").removeprefix("SELECT ")


def _without_outer_brackets(connection: duckdb.DuckDBPyConnection, clause: str) -> str:
    """`(a > 1)` -> `a > 1` where that is the same clause among others joined by AND."""
    inner = clause[1:-1]
    if not (clause.startswith("(") and clause.endswith(")")):
        return clause
    parsed = _call_json(connection, "json_serialize_sql(?::varchar)", f"{_PREFIX}{inner} and true")
    if parsed["error"]:
        return clause
    again = list(_conjuncts(parsed["statements"][0]["node"].get("where_clause") or {}))
    return inner if len(again) == 2 and _to_sql(connection, again[0]) == clause else clause


def _call_json(connection: duckdb.DuckDBPyConnection, call: str, argument: str) -> dict[str, Any]:
    row = connection.execute(f"select {call}", [argument]).fetchone()
    return dict(json.loads(row[0] if row else "null"))


def _place(where: str, position: Any, prefix: int = len(_PREFIX)) -> str:
    """Line and column of a position that DuckDB counts in bytes from the start of the statement."""
    if position is None:
        return where.strip()
    before = where.encode()[: max(int(position) - prefix, 0)].decode(errors="ignore")
    near = where[len(before) :].split("\n")[0][:40]
    return f"line {before.count(chr(10)) + 1}, column {len(before.split(chr(10))[-1]) + 1}: {near or '(end)'}"


def _said(message: str) -> str:
    return message.replace("Only SELECT statements can be serialized to json!", "this is more than a predicate")
