"""Where documents come from, looked up one at a time: what a trace of many tokens needs."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Collection, Iterator, Sequence
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from tilth.artifacts import Named, Store
from tilth.catalog.complaints import complain
from tilth.catalog.connect import open_in_memory
from tilth.catalog.corpus_views import create_corpus_views
from tilth.catalog.sql import plain_table
from tilth.catalog.trace import provenance_query, refuse_unknown
from tilth.errors import NotFoundError

_COLUMNS = (
    "doc_id", "source", "url", "raw_swhid", "text_swhid", "encoding", "origin", "revision", "path", "n_occurrences", "licence",
    "language",
)  # fmt: skip
_ROWS_A_BATCH = 10_000


class Provenance:
    """The provenance of all documents of a subset in the order of their places, in a file that is mapped until `close`.

    A query of the catalog costs milliseconds and more with every document; a look-up here is two searches in sorted arrays.
    Columns as `documents_at` has them, `encoding`, and `signals`; QueryError for one that the corpus does not have.
    Memory: 4 bytes a document; the file has some hundred, and no name.
    """

    def __init__(self, store: Store, named: Named, signals: Collection[str] = ()) -> None:
        self.named = named
        wanted = [*_COLUMNS, *signals]
        with open_in_memory(store.root / "catalog") as connection:
            try:
                views = create_corpus_views(connection, store, named, "corpus")
                refuse_unknown(signals, views, named)
                query = provenance_query(views.select({name.lower() for name in wanted}), "corpus", wanted)
                found = connection.execute(f'{query} order by shard, "row"').to_arrow_reader(_ROWS_A_BATCH)
                tables = chain([found.schema.empty_table()], (pa.Table.from_batches([batch]) for batch in found))
                self._map, self._batches = _mapped(map(plain_table, tables), store.root / "catalog")
            except duckdb.Error as error:
                raise complain(error, store_root=store.root) from error
        self._firsts = np.cumsum([0, *(batch.num_rows for batch in self._batches)])
        self._rows = np.concatenate([np.zeros(0, np.int32), *(batch.column("row").to_numpy() for batch in self._batches)])
        self._shards = self._places_of_shards()

    def close(self) -> None:
        """Give the file back."""
        self._batches = []
        self._map.close()

    def at(self, shard: str, row: int) -> dict[str, Any]:
        """The document at a place. Raises NotFoundError where none lies."""
        place = self._place(shard, row)
        number = int(np.searchsorted(self._firsts, place, side="right")) - 1
        (document,) = self._batches[number].slice(place - int(self._firsts[number]), 1).to_pylist()
        return dict(document)

    def of(self, places: Sequence[tuple[str, int]]) -> list[dict[str, Any]]:
        """The documents at places (shard, row), in the order asked. Raises NotFoundError where none lies."""
        found = np.array([self._place(shard, row) for shard, row in places], np.int64)
        if not len(found):
            return []
        order = np.argsort(found, kind="stable")
        numbers = np.searchsorted(self._firsts, found[order], side="right") - 1
        documents: list[dict[str, Any]] = []
        for number in np.unique(numbers).tolist():
            own = found[order][numbers == number] - int(self._firsts[number])
            documents += self._batches[number].take(pa.array(own)).to_pylist()
        back = np.empty_like(order)
        back[order] = np.arange(len(order))
        return [documents[place] for place in back.tolist()]

    def _place(self, shard: str, row: int) -> int:
        first, stop = self._shards.get(shard, (0, 0))
        # Of the type of the rows: for another one all of them would be copied.
        place = first + int(np.searchsorted(self._rows[first:stop], np.int32(row)))
        if place == stop or self._rows[place] != row:
            raise NotFoundError("no document lies there", where=f"{self.named.label} {shard}:{row}")
        return place

    def _places_of_shards(self) -> dict[str, tuple[int, int]]:
        """The first row of each shard among all, and the one behind its last."""
        found: dict[str, tuple[int, int]] = {}
        for batch, first in zip(self._batches, self._firsts[:-1].tolist(), strict=True):
            encoded = batch.column("shard").dictionary_encode()
            numbers = encoded.indices.to_numpy()
            bounds = [0, *(np.flatnonzero(np.diff(numbers)) + 1).tolist(), len(numbers)]
            for start, stop in pairwise(bounds):
                name = encoded.dictionary[int(numbers[start])].as_py()
                found[name] = found.get(name, (first + start, 0))[0], first + stop
        return found


def _mapped(tables: Iterator[pa.Table], folder: Path) -> tuple[pa.MemoryMappedFile, list[pa.RecordBatch]]:
    """Write tables to a file of which nothing is left once it is closed, whatever ends this process; its batches, mapped."""
    with tempfile.NamedTemporaryFile(dir=folder if os.access(folder, os.W_OK) else None, suffix=".arrow") as file:
        first = next(tables)
        with pa.ipc.new_file(file, first.schema) as writer:
            for table in chain([first], tables):
                writer.write_table(table, _ROWS_A_BATCH)
        file.flush()
        mapped = pa.memory_map(file.name)
        reader = pa.ipc.open_file(mapped)
        batches = (reader.get_batch(number) for number in range(reader.num_record_batches))
        return mapped, [batch for batch in batches if batch.num_rows]
