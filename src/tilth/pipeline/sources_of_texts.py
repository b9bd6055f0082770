"""Where the texts of a corpus come from, a shard at a time: their places in repositories, and what edits left of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tilth.artifacts import Named, Part, Store
from tilth.pipeline.parquet import read_columns, rows_of, stream
from tilth.tokenize.source_ranges import Segments, segments_of
from tilth.tokenize.thread_markers import MARKED_KINDS, PLACES

_REPOSITORY = "git"  # the kind of an occurrence that makes a document a file of a repository


class RepositoryPlace(NamedTuple):
    """Where the content of a document was seen first."""

    origin: str
    path: str


class SourcesOfTexts:
    """Looks up occurrences and edits of the shards that `named` (a corpus or a subset) is made of."""

    def __init__(self, store: Store, named: Named) -> None:
        self.store = store
        self._read: dict[str | None, Part] = {part.shard: part for part in named.of("read")}
        self._edit: dict[str | None, Part] = {part.shard: part for part in named.of("edit")}

    def repository_files(self, shard: str) -> dict[int, RepositoryPlace]:
        """The rows of a shard that are files of repositories; of several places the first by date, origin, path and revision."""
        artifact = self.store.artifact(self._read[shard])
        columns = ["row", "date", "origin", "path", "revision"]
        table = read_columns(artifact, "occurrences.parquet", ["kind", *columns])
        rows = table.filter(pc.equal(table.column("kind"), _REPOSITORY)).select(columns).to_pylist()
        first: dict[int, tuple[str, str, str, str]] = {}
        for row in rows:
            key = (row["date"] or "9999", row["origin"], row["path"], row["revision"] or "")
            if row["row"] not in first or key < first[row["row"]]:
                first[row["row"]] = key
        return {row: RepositoryPlace(key[1], key[2]) for row, key in first.items()}

    def markers(self, shard: str) -> dict[int, str]:
        """The rows of a shard whose sources set markers, and where these begin in the texts as they were read (`PLACES`)."""
        artifact = self.store.artifact(self._read[shard])
        kinds = read_columns(artifact, "occurrences.parquet", ["row", "kind"])
        marked = kinds.filter(pc.is_in(kinds.column("kind"), value_set=pa.array(MARKED_KINDS))).column("row").unique()
        found: dict[int, str] = {}
        for batch in stream(artifact, "documents.parquet", ["row", "meta"]) if len(marked) else ():
            own = batch.filter(pc.is_in(batch.column("row"), value_set=marked))
            places = pc.map_lookup(own.column("meta"), PLACES, "first")
            found |= dict(zip(own.column("row").to_pylist(), places.fill_null("").to_pylist(), strict=True))
        return found

    def segments(self, shard: str, rows: Sequence[int]) -> dict[int, Segments]:
        """For those of `rows` that edits changed, what became of their texts."""
        if shard not in self._edit:
            return {}
        edits = read_columns(self.store.artifact(self._edit[shard]), "edits.parquet", ["row", "start", "end", "replacement"])
        edits = edits.filter(pc.is_in(edits.column("row"), pa.array(sorted(rows), edits.schema.field("row").type)))
        changed = np.unique(edits.column("row").to_numpy()).tolist()
        spans: dict[int, list[tuple[int, int, str]]] = {row: [] for row in changed}
        for edit in edits.to_pylist():
            spans[edit["row"]].append((edit["start"], edit["end"], edit["replacement"]))
        as_read = rows_of(self.store.artifact(self._read[shard]), "documents.parquet", ["row", "text"], changed)
        return {one["row"]: segments_of(one["text"], spans[one["row"]]) for one in as_read}
