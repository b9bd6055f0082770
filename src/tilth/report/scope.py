"""What a panel may ask: SQL on the catalog, which tables there are, and what the corpus' sources and subsets are."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tilth.errors import TilthError
from tilth.report.cuts import Cut, cuts_in
from tilth.report.theme import OTHER_COLOUR, SOURCE_COLOURS

MAX_ROWS = 5_000  # of one query: charts are aggregated in SQL, pages stay small
MAX_SUBSETS = 4
NUMERIC = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT", "FLOAT", "DOUBLE")

Row = Mapping[str, Any]


class AbsentError(Exception):
    """Why a panel has nothing to show yet, in one sentence; it is not a failure."""


@dataclass(frozen=True)
class Subset:
    """A picked subset of the corpus and the comparisons in its predicate."""

    name: str
    where: str
    cuts: tuple[Cut, ...]
    clauses: tuple[str, ...] = ()  # none where the corpus was built anew after it was picked


class Scope:
    """A DuckDB connection to the catalog and the corpus that is looked at (None where there is none)."""

    def __init__(self, connection: Any, corpus: str | None, relation: str | None = None) -> None:
        self.connection, self.corpus = connection, corpus
        self.relation = relation or corpus or ""  # the corpus' name in SQL, of its schema and of its wide view

    # -- asking ---------------------------------------------------------------

    def rows(self, sql: str, *parameters: Any) -> list[Row]:
        """The rows as mappings. Raises TilthError beyond MAX_ROWS: a page is no place for raw data."""
        cursor = self.connection.execute(sql, list(parameters))
        names = [column[0] for column in cursor.description]
        found = cursor.fetchmany(MAX_ROWS + 1)
        if len(found) > MAX_ROWS:
            raise TilthError(f"a panel asked for more than {MAX_ROWS:,} rows", " ".join(sql.split())[:120], "Aggregate in SQL.")
        return [dict(zip(names, values, strict=True)) for values in found]

    def row(self, sql: str, *parameters: Any) -> Row:
        """The only row."""
        (found,) = self.rows(sql, *parameters)
        return found

    # -- what there is ----------------------------------------------------------

    @cached_property
    def relations(self) -> dict[tuple[str, str], dict[str, str]]:
        """(schema, table or view) -> column -> type."""
        found: dict[tuple[str, str], dict[str, str]] = {}
        # Not through `rows`: a catalog of many corpora has many columns.
        sql = """select schema_name, table_name, column_name, data_type from duckdb_columns()
                 where database_name = current_database() and not internal order by all"""
        for schema, relation, column, kind in self.connection.execute(sql).fetchall():
            found.setdefault((schema, relation), {})[column] = kind
        return found

    def columns(self, relation: str, schema: str = "main") -> dict[str, str]:
        """Columns and their types; empty where there is no such table."""
        return self.relations.get((schema, relation), {})

    def need(self, relation: str, columns: Sequence[str], otherwise: str) -> str:
        """The global table, quoted; AbsentError(otherwise) if it lacks a column, does not exist, or has no row."""
        found = self.columns(relation)
        name = quoted(relation)
        if not all(column in found for column in columns) or not self.rows(f"select 1 from {name} limit 1"):
            raise AbsentError(otherwise)
        return name

    # -- the corpus ---------------------------------------------------------------

    def need_corpus(self) -> None:
        """AbsentError where nothing is built."""
        if self.corpus is None:
            raise AbsentError("No corpus has been built yet: `tilth build RECIPE` makes one.")

    @property
    def wide(self) -> str:
        """The wide view of the corpus: documents with signals, duplicate marks and licences."""
        self.need_corpus()
        return f"main.{quoted(self.relation)}"

    def side(self, table: str) -> str:
        """A raw table of the corpus: documents, rejects, duplicates, ..."""
        self.need_corpus()
        if not self.columns(table, self.relation):
            raise AbsentError(f"The corpus has no `{table}` yet.")
        return f"{quoted(self.relation)}.{quoted(table)}"

    @cached_property
    def wide_columns(self) -> dict[str, str]:
        """Columns of the wide view."""
        return self.columns(self.relation)

    def has_temporary(self, name: str) -> bool:
        """Whether this connection has a temporary table or view of this name."""
        sql = """select 1 from duckdb_tables() where temporary and table_name = $1
                 union all select 1 from duckdb_views() where temporary and view_name = $1"""
        return bool(self.rows(sql, name))

    @property
    def n_tokens(self) -> str:
        """SQL for a document's tokens: a null where no tokenizer has counted them."""
        return "n_tokens" if "n_tokens" in self.wide_columns else "cast(null as bigint)"

    @cached_property
    def sources(self) -> list[str]:
        """Sources of the corpus, the one with the most documents first."""
        sql = f"select source, count(*) as n from {self.side('documents')} group by source"
        if self.columns("rejects", self.relation):
            sql += f" union all by name select source, 0 as n from {self.side('rejects')} group by source"
        return [row["source"] for row in self.rows(f"select source from ({sql}) group by source order by sum(n) desc, source")]

    def colour(self, source: str) -> str:
        """The source's colour, the same in every chart."""
        rank = self.sources.index(source)
        return SOURCE_COLOURS[rank] if rank < len(SOURCE_COLOURS) else OTHER_COLOUR

    @cached_property
    def legend(self) -> list[tuple[str, str]]:
        """(source, colour) for a legend."""
        return [(source, self.colour(source)) for source in self.sources]

    @cached_property
    def subsets(self) -> list[Subset]:
        """The corpus' subsets with the cuts that their predicates make, the largest first.

        At most MAX_SUBSETS: those that a run was trained on, then the largest; `hidden_subsets` are the others.
        """
        numeric = {name for name, kind in self.wide_columns.items() if is_numeric(kind)}
        found = []
        for row in self._ranked_subsets[:MAX_SUBSETS]:
            cuts = cuts_in(self.connection, row["predicate"] or "", numeric)
            clauses = tuple(json.loads(row["clauses"] or "[]"))
            found.append((row["n_documents"], Subset(row["name"], row["predicate"] or "", tuple(cuts), clauses)))
        return [subset for _, subset in sorted(found, key=lambda pair: (-(pair[0] or 0), pair[1].name))]

    @property
    def hidden_subsets(self) -> list[str]:
        """Names of the subsets for which the page has no room."""
        return [row["name"] for row in self._ranked_subsets[MAX_SUBSETS:]]

    @cached_property
    def _ranked_subsets(self) -> list[Row]:
        columns = self.columns("subsets")
        if not {"name", "corpus", "where"} <= columns.keys():
            return []
        size = "n_documents" if "n_documents" in columns else "null::bigint"
        trained = "name in (select subset from runs)" if "subset" in self.columns("runs") else "false"
        current = "false"
        if {"meta", "corpus_digest"} <= columns.keys():
            current = "corpus_digest = (select digest from corpora where corpora.name = subsets.corpus)"
        clauses = f"case when {current} then meta -> '$.clauses' end" if "meta" in columns else "null"
        return self.rows(
            f'select name, "where" as predicate, {size} as n_documents, {clauses} as clauses from subsets where corpus = ? '
            f"order by {trained} desc, n_documents desc, name",
            self.corpus,
        )


def quoted(identifier: str) -> str:
    """An SQL identifier."""
    return '"' + identifier.replace('"', '""') + '"'


def is_numeric(kind: str) -> bool:
    """Whether a DuckDB type is a number that can be binned."""
    return kind.startswith("DECIMAL") or kind in NUMERIC
