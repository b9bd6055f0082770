"""A curation predicate, parsed by DuckDB itself into the clauses that its top-level ANDs join."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import duckdb

from tilth.catalog.complaints import complain
from tilth.catalog.expressions import Clause, call_json, names_in, to_sql, walk
from tilth.errors import QueryError

_PREFIX = "select 1 from documents where\n"
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
    clause = Clause(_PREFIX, where, "a predicate", _ONE_DOCUMENT)
    expression = clause.parse(connection, "where_clause")
    nodes = list(walk(expression))
    clause.refuse_what_varies(connection, nodes)
    clauses = dict.fromkeys(_without_outer_brackets(connection, to_sql(connection, part)) for part in _conjuncts(expression))
    return Predicate(tuple(clauses), names_in(nodes))


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


def _conjuncts(expression: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if expression.get("type") == "CONJUNCTION_AND":
        for child in expression["children"]:
            yield from _conjuncts(child)
    else:
        yield expression


def _without_outer_brackets(connection: duckdb.DuckDBPyConnection, clause: str) -> str:
    """`(a > 1)` -> `a > 1` where that is the same clause among others joined by AND."""
    inner = clause[1:-1]
    if not (clause.startswith("(") and clause.endswith(")")):
        return clause
    parsed = call_json(connection, "json_serialize_sql(?::varchar)", f"{_PREFIX}{inner} and true")
    if parsed["error"]:
        return clause
    again = list(_conjuncts(parsed["statements"][0]["node"].get("where_clause") or {}))
    return inner if len(again) == 2 and to_sql(connection, again[0]) == clause else clause
