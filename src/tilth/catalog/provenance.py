"""Where documents come from, looked up one at a time through an open connection: what a trace of many tokens needs."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import duckdb

from tilth.artifacts import Named, Store
from tilth.catalog.complaints import complain
from tilth.catalog.connect import open_in_memory
from tilth.catalog.corpus_views import create_corpus_views
from tilth.catalog.sql import plain_table
from tilth.catalog.trace import provenance_query
from tilth.errors import NotFoundError

_COLUMNS = (
    "doc_id", "source", "url", "raw_swhid", "text_swhid", "encoding", "origin", "revision", "path", "n_occurrences", "licence",
    "language",
)  # fmt: skip

_ROWS_AT_ONCE, _BLOCKS_HELD = 256, 128  # a query costs more than its rows, and the next token is often of a neighbour


class Provenance:
    """The provenance of all documents of a subset, held in a table until `close`; a look-up takes milliseconds.

    Columns as `documents_at` has them, and `encoding`. Memory: some hundred bytes a document; DuckDB spills what is more.
    """

    def __init__(self, store: Store, named: Named) -> None:
        self.named = named
        self._block = lru_cache(maxsize=_BLOCKS_HELD)(self._look_up)
        self._connection = open_in_memory(store.root / "catalog")
        try:
            views = create_corpus_views(self._connection, store, named, "corpus")
            query = provenance_query(views.select({name.lower() for name in _COLUMNS}), "corpus", _COLUMNS)
            self._connection.execute(f"create temp table provenance as {query}")
        except duckdb.Error as error:
            self._connection.close()
            raise complain(error, store_root=store.root) from error

    def close(self) -> None:
        """Give the table's memory back."""
        self._connection.close()

    def at(self, shard: str, row: int) -> dict[str, Any]:
        """The document at a place. Raises NotFoundError where none lies."""
        document = self._block(shard, row // _ROWS_AT_ONCE).get(row)
        if document is None:
            raise NotFoundError("no document lies there", where=f"{self.named.label} {shard}:{row}")
        return dict(document)

    def _look_up(self, shard: str, block: int) -> dict[int, dict[str, Any]]:
        query = 'select * from provenance where shard = ? and "row" between ? and ?'
        first = block * _ROWS_AT_ONCE
        found = self._connection.execute(query, [shard, first, first + _ROWS_AT_ONCE - 1]).to_arrow_table()
        return {row["row"]: row for row in plain_table(found).to_pylist()}
