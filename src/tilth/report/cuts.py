"""Finds in a subset's predicate the comparisons of a column with a constant: the lines that charts draw."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

_OPERATORS = {
    "COMPARE_GREATERTHAN": ">",
    "COMPARE_GREATERTHANOREQUALTO": ">=",
    "COMPARE_LESSTHAN": "<",
    "COMPARE_LESSTHANOREQUALTO": "<=",
    "COMPARE_EQUAL": "=",
    "COMPARE_NOTEQUAL": "!=",
}
_MIRRORED = {">": "<", ">=": "<=", "<": ">", "<=": ">=", "=": "=", "!=": "!="}
_NEGATED = {">": "<=", ">=": "<", "<": ">=", "<=": ">", "=": "!=", "!=": "="}


@dataclass(frozen=True, order=True)
class Cut:
    """`column operator value`, as it holds for the documents that are kept."""

    column: str
    operator: str
    value: float

    def __str__(self) -> str:
        value = int(self.value) if self.value.is_integer() else self.value
        return f"{self.column} {self.operator} {value}"

    @property
    def keeps_above(self) -> bool | None:
        """Whether larger values are kept; None where the comparison has no side."""
        return {">": True, ">=": True, "<": False, "<=": False}.get(self.operator)


def cuts_in(connection: Any, where: str, columns: Collection[str]) -> list[Cut]:
    """Every comparison in `where` of one of `columns` (numeric) with a constant, in the order of the text.

    DuckDB's own parser reads the predicate, so `between`, `not`, casts and arithmetic of constants are
    understood as it understands them. What stands under OR is listed too. A text that does not parse has no cuts.
    """
    if not where.strip():
        return []
    (tree,) = connection.execute("select json_serialize_sql(?)", [f"select 1 where ({where}\n)"]).fetchone()
    parsed = json.loads(tree)
    if parsed.get("error") or len(parsed.get("statements", ())) != 1:
        return []
    known = {name.lower(): name for name in columns}
    found = [
        Cut(known[column.lower()], operator, value)
        for column, operator, constant in _comparisons(parsed["statements"][0]["node"]["where_clause"], False)
        if column.lower() in known and (value := _evaluate(connection, constant)) is not None
    ]
    return list(dict.fromkeys(found))


def _comparisons(node: Any, negated: bool) -> Iterator[tuple[str, str, Any]]:
    """(column, operator, tree of the constant) of every comparison below `node`; subqueries are not entered."""
    kind = node.get("type") if isinstance(node, dict) else None
    if kind in ("CONJUNCTION_AND", "CONJUNCTION_OR"):
        for child in node["children"]:
            yield from _comparisons(child, negated)
    elif kind == "OPERATOR_NOT":
        yield from _comparisons(node["children"][0], not negated)
    elif kind == "COMPARE_BETWEEN":
        yield from _sides(node["input"], ">=", node["lower"], negated)
        yield from _sides(node["input"], "<=", node["upper"], negated)
    elif kind in _OPERATORS:
        yield from _sides(node["left"], _OPERATORS[kind], node["right"], negated)


def _sides(left: Any, operator: str, right: Any, negated: bool) -> Iterator[tuple[str, str, Any]]:
    operator = _NEGATED[operator] if negated else operator
    if left["type"] == "COLUMN_REF" and not _mentions_rows(right):
        yield left["column_names"][-1], operator, right
    elif right["type"] == "COLUMN_REF" and not _mentions_rows(left):
        yield right["column_names"][-1], _MIRRORED[operator], left


def _mentions_rows(node: Any) -> bool:
    text = json.dumps(node)
    return any(f'"{kind}"' in text for kind in ("COLUMN_REF", "SUBQUERY", "PARAMETER", "WINDOW"))


def _evaluate(connection: Any, constant: Any) -> float | None:
    """The value of a tree without columns, by letting DuckDB write it as SQL and compute it."""
    (template,) = connection.execute("select json_serialize_sql('select 1')").fetchone()
    tree = json.loads(template)
    tree["statements"][0]["node"]["select_list"] = [constant]
    (statement,) = connection.execute("select json_deserialize_sql(?::json)", [json.dumps(tree)]).fetchone()
    (value,) = connection.execute(f"select try_cast(({statement}) as double)").fetchone()
    return value
