"""SQL expressions on one document, taken apart by DuckDB's own parser: what predicates and keeper rules are made of."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import duckdb

from tilth.errors import QueryError

Node = dict[str, Any]
_NOT_ON_ONE_DOCUMENT = {
    "SUBQUERY": "a subquery",
    "WINDOW": "a window function",
    "STAR": "`*` or `columns(...)`",
    "PARAMETER": "a parameter",
    "POSITIONAL_REFERENCE": "a positional reference",
    "DEFAULT": "`default`",
}
_CLOCKS = ("current_date", "current_time", "current_timestamp", "localtime", "localtimestamp")  # functions without parentheses
_VARIES = "does not give the same answer every time"
_EXTRAS = ("modifiers", "group_expressions", "group_sets", "having", "qualify", "sample", "where_clause")


@dataclass(frozen=True)
class Clause:
    """A user's text as the end of a statement: `prefix` + `text`. `kind` (`a predicate`) and `advice` are for complaints."""

    prefix: str
    text: str
    kind: str
    advice: str

    def parse(self, connection: duckdb.DuckDBPyConnection, part: str) -> Any:
        """What DuckDB reads as `part` of the statement, which must have no other. Raises QueryError."""
        if not self.text.strip() or self.text.rstrip().endswith(";"):
            what = f"{self.kind} is one expression, not empty and without `;`"
            raise QueryError(what, where=self.text.strip() or "(empty)", fix=self.advice)
        parsed = call_json(connection, "json_serialize_sql(?::varchar)", self.prefix + self.text)
        if parsed["error"]:
            raise QueryError(self._said(parsed["error_message"]), where=self.place(parsed.get("position")), fix=self.advice)
        statements = parsed["statements"]
        node = statements[0]["node"]
        is_bare = node["type"] == "SELECT_NODE" and not any(node.get(extra) for extra in _EXTRAS if extra != part)
        if len(statements) != 1 or not is_bare or not node.get(part):
            raise QueryError(f"this is more than {self.kind}", where=self.text.strip(), fix=self.advice)
        return node[part]

    def refuse_what_varies(self, connection: duckdb.DuckDBPyConnection, nodes: Sequence[Node]) -> None:
        """Raise QueryError where `nodes` hold more than the columns of one document, or give another answer every time."""
        for node in nodes:
            word = _NOT_ON_ONE_DOCUMENT.get(str(node.get("class")))
            if word:
                raise self._cannot_hold(word, node)
        for node in nodes:
            if node.get("class") == "COLUMN_REF" and str(node["column_names"][-1]).lower() in _CLOCKS:
                raise self._cannot_hold(f"`{node['column_names'][-1]}`: it {_VARIES}", node)
        called = {str(node["function_name"]).lower(): node for node in nodes if node.get("class") == "FUNCTION"}
        kinds = connection.execute(
            "select function_name, bool_or(function_type = 'aggregate'), bool_or(stability <> 'CONSISTENT') "
            "from duckdb_functions() where function_name in (select unnest(?::varchar[])) group by all order by all",
            [list(called)],
        ).fetchall()
        for name, is_aggregate, varies in kinds:
            if is_aggregate or varies:
                why = "speaks of many documents" if is_aggregate else _VARIES
                raise self._cannot_hold(f"`{name}`: it {why}", called[name])

    def place(self, position: Any) -> str:
        """Line and column in the text of a position that DuckDB counts in bytes from the start of the statement."""
        if position is None:
            return self.text.strip()
        before = self.text.encode()[: max(int(position) - len(self.prefix), 0)].decode(errors="ignore")
        near = self.text[len(before) :].split("\n")[0][:40]
        return f"line {before.count(chr(10)) + 1}, column {len(before.split(chr(10))[-1]) + 1}: {near or '(end)'}"

    def _cannot_hold(self, what: str, node: Node) -> QueryError:
        where = self.place(node.get("query_location"))
        return QueryError(f"{self.kind} cannot hold {what}", where=where, fix=self.advice)

    def _said(self, message: str) -> str:
        return message.replace("Only SELECT statements can be serialized to json!", f"this is more than {self.kind}")


def walk(node: Any) -> Iterator[Node]:
    """A parsed node and everything below it."""
    if isinstance(node, dict):
        yield node
        for child in node.values():
            yield from walk(child)
    elif isinstance(node, list):
        for child in node:
            yield from walk(child)


def names_in(nodes: Sequence[Node]) -> frozenset[str]:
    """Every identifier, lower case: columns, and qualifiers or struct fields."""
    return frozenset(str(name).lower() for node in nodes if node.get("class") == "COLUMN_REF" for name in node["column_names"])


def to_sql(connection: duckdb.DuckDBPyConnection, expression: Node) -> str:
    """The expression as DuckDB writes it, so that spaces and case do not matter."""
    # DuckDB turns whole statements back into SQL, so the expression becomes the only column of one.
    statement = call_json(connection, "json_serialize_sql(?::varchar)", "select 1")
    statement["statements"][0]["node"]["select_list"] = [expression]
    row = connection.execute("select json_deserialize_sql(?::json)", [json.dumps(statement)]).fetchone()
    return str(row[0] if row else "").removeprefix("SELECT ")


def call_json(connection: duckdb.DuckDBPyConnection, call: str, argument: str) -> dict[str, Any]:
    """The answer of one of DuckDB's functions that return JSON."""
    row = connection.execute(f"select {call}", [argument]).fetchone()
    return dict(json.loads(row[0] if row else "null"))
