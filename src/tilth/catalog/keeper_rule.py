"""Which document of a cluster of duplicates is kept: keys to order by, in SQL, or rules that are known by a name."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import duckdb
import pyarrow as pa

from tilth.catalog.complaints import complain
from tilth.catalog.expressions import Clause, Node, names_in, to_sql, walk
from tilth.catalog.quoting import identifier, literal
from tilth.errors import QueryError

NAMED_RULES = {
    "longest": "n_chars desc",
    "best_quality": "quality_score desc",
    "most_permissive": "licence_strictness(licence)",
    "earliest": "date",
}
SOURCE_RULE = "source:"
_BY_FIELD = re.compile(r"\s*(?P<which>earliest|latest)\s+(?P<field>\w+)\s*")  # `earliest crawled_at`, which is no SQL
_FOLLOWS = re.compile(r"is_(\w+_)?keeper|cluster_id|duplicate_similarity")  # what follows from a rule
_PREFIX = "select 1 from documents order by\n"
_DIRECTIONS = {"DESCENDING": "desc", "ASCENDING": "asc", "ORDER_DEFAULT": "asc"}
_ADVICE = "A rule is what `order by` takes, the best first: `n_tokens desc, source = 'wikipedia' desc`; or a name: {names}."

Functions = Mapping[str, Callable[[str], int]]


@dataclass(frozen=True)
class Key:
    """A value of each document, and which ones come first; nulls come last unless the rule says otherwise."""

    sql: str
    direction: str
    nulls: str = "last"

    def __str__(self) -> str:
        return f"{self.sql} {self.direction} nulls {self.nulls}"


@dataclass(frozen=True)
class KeeperRule:
    """The document that comes first by `keys` is kept, and of equals the first by (shard, row). `words` are as given."""

    words: tuple[str, ...] = ()
    keys: tuple[Key, ...] = ()
    names: frozenset[str] = field(default_factory=frozenset)  # every identifier in it, lower case

    def __str__(self) -> str:
        return ", then ".join([*self.words, "the first by shard and row"])


def parse_keeper_rule(keep: str | Sequence[str]) -> KeeperRule:
    """The rule that `keep` says: SQL to order by, one of NAMED_RULES, `source:a,b,c`, or several of these, the first deciding.

    Raises QueryError for what orders no documents.
    """
    words = (keep,) if isinstance(keep, str) else tuple(keep)
    if not words:
        return KeeperRule()
    keys: list[Key] = []
    names: frozenset[str] = frozenset()
    with _no_data() as connection:
        for word in words:
            clause = _clause(word)
            for order in clause.parse(connection, "modifiers"):
                if order["type"] != "ORDER_MODIFIER":
                    raise QueryError(f"this is more than {clause.kind}", where=word, fix=clause.advice)
                keys += [_key(connection, clause, one) for one in order["orders"]]
                names |= names_in(list(walk(order)))
    return KeeperRule(words, tuple(keys), names)


def check_keeper_rule(rule: KeeperRule, columns: pa.Schema, functions: Functions) -> None:
    """Raise QueryError unless the rule means something for documents with `columns`: spelling, types, no aggregate."""
    with _no_data() as connection:
        add_functions(connection, functions)
        empty = connection.from_arrow(columns.empty_table())
        typed = zip(empty.columns, empty.types, strict=True)
        connection.execute(f"create table documents ({', '.join(f'{identifier(name)} {kind}' for name, kind in typed)})")
        check_binds(connection, rule, columns.names)


def check_binds(connection: duckdb.DuckDBPyConnection, rule: KeeperRule, columns: Iterable[str]) -> None:
    """Raise QueryError unless the rule means something for the relation `documents`; `columns` are names to suggest."""
    for word in rule.words:
        try:
            connection.execute(f"explain {_clause(word).prefix}{_expanded(word)}")
        except duckdb.Error as error:
            raise complain(error, known=[*columns, *NAMED_RULES], first_line=2) from error


def add_functions(connection: duckdb.DuckDBPyConnection, functions: Functions) -> None:
    """Let SQL call `functions` of a text (null gives null): what the names of rules need and DuckDB does not have."""
    for name, function in functions.items():
        connection.create_function(name, function, ["VARCHAR"], "INTEGER")  # type: ignore[list-item]


def _no_data() -> duckdb.DuckDBPyConnection:
    return duckdb.connect(config={"python_enable_replacements": "false"})


def _clause(word: str) -> Clause:
    advice = _ADVICE.format(names=", ".join([*NAMED_RULES, "latest FIELD", f"{SOURCE_RULE}a,b"]))
    return Clause(_PREFIX, _expanded(word), "a keeper rule", advice)


def _expanded(word: str) -> str:
    if by_field := _BY_FIELD.fullmatch(word):
        return identifier(by_field["field"]) + (" desc" if by_field["which"] == "latest" else "")
    if not word.startswith(SOURCE_RULE):
        return NAMED_RULES.get(word.strip(), word)
    sources = [source.strip() for source in word.removeprefix(SOURCE_RULE).split(",")]
    if not all(sources):
        raise QueryError("a source has no name", where=word, fix="Name the sources, the best first: `source:wikipedia,web`.")
    return f"list_position([{', '.join(map(literal, sources))}], source)"


def _key(connection: duckdb.DuckDBPyConnection, clause: Clause, order: Node) -> Key:
    nodes = list(walk(order["expression"]))
    clause.refuse_what_varies(connection, nodes)
    names = names_in(nodes)
    if not names:
        raise QueryError("this is the same for every document", where=to_sql(connection, order["expression"]), fix=clause.advice)
    circular = sorted(filter(_FOLLOWS.fullmatch, names))
    if circular:
        raise QueryError(f"`{circular[0]}` follows from the rule", where=clause.text, fix=clause.advice)
    nulls = "first" if order["null_order"] == "NULLS FIRST" else "last"
    return Key(to_sql(connection, order["expression"]), _DIRECTIONS[order["type"]], nulls)
