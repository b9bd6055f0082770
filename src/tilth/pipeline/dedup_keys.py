"""Copies in the user's own files by keys, fingerprints or embeddings: exact, normal text, URL, SimHash, semantic; in one pass."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from tilth.contracts import DUPLICATES
from tilth.contracts.contract import UUID
from tilth.corpus.columns import Columns, Fields, read_columns
from tilth.dedup.simhash.parameters import SimHash
from tilth.errors import RecipeError
from tilth.pipeline.dedup_files import WHERE, Deduplicated, Search, find_pieces, whole_output
from tilth.pipeline.distinct_ids import check_ids, id_hashes
from tilth.pipeline.file_keepers import check_rule, keep_by_rule
from tilth.pipeline.near_steps import duplicates_schema
from tilth.pipeline.progress import progress

# What marks documents (duplicates/1), given their tables, the ids of all rows once these are read, and a folder for scratch.
Marker = Callable[[Iterator[pa.Table], Callable[[], pa.ChunkedArray], Path], pa.Table]


def deduplicate_by_keys(search: Search, method: str, compared: str, marker: Marker | None = None) -> Deduplicated:
    """Write `search.output` as `deduplicate` does, with the marks of `method` on the field `compared`.

    `marker` makes the marks, by default that of `key_marker`. Memory: the ids, and 50 bytes a document (semantic: 300).
    Raises SourceError as `deduplicate` does; RecipeError for `gone` and `index`, which only MinHash has.
    """
    if search.index is not None or search.gone:
        raise RecipeError(f"`{method}` keeps no index and passes over nothing", "--method", "Leave `--index`, `--remove` out.")
    found = find_pieces(search)
    fields = Fields(compared, search.id, found.id_type)
    own = [piece for piece, _ in found.pieces.values()]
    if search.keep:
        check_rule(search.keep, own, compared, search.text, WHERE)
    ids: list[list[pa.Array]] = []  # of each piece
    rejects: list[str] = []
    counts = {"rejected": 0, "without": 0}

    def batches() -> Iterator[pa.Table]:
        first = 0
        with progress(method, len(found.pieces)) as advance:
            for piece in own:
                ids.append([])
                for columns in read_columns(piece, fields, WHERE):
                    ids[-1].append(columns.ids)
                    counts["rejected"] += len(columns.rejects)
                    counts["without"] += columns.texts.null_count
                    rejects.extend(f"{one.location}: {one.reason}" for one in columns.rejects[: 5 - len(rejects)])
                    yield _documents(columns, first)
                    first += len(columns.ids)
                advance(piece.name)

    @cache
    def joined_ids() -> pa.ChunkedArray:
        joined = pa.chunked_array([part for parts in ids for part in parts], found.id_type)
        check_ids([joined], [id_hashes(joined)])
        return joined

    with tempfile.TemporaryDirectory(dir=search.output.absolute().parent, prefix=f".{search.output.name}-") as scratch:
        marks = (marker or key_marker(method))(batches(), joined_ids, Path(scratch))
    joined = joined_ids()
    table = _by_ids(marks, joined)
    with whole_output(search.output) as partial:
        pq.write_table(table, partial, compression="zstd")
        if search.keep:
            of_pieces = [pa.chunked_array(parts, found.id_type) for parts in ids]
            keep_by_rule(partial, search.keep, own, of_pieces, search.text, WHERE)
    n_keepers = int(np.asarray(marks.column("is_keeper")).sum())
    return Deduplicated(
        n_documents=len(joined), n_rejected=counts["rejected"], n_clusters=n_keepers, n_members=marks.num_rows,
        n_without_text=counts["without"], stats={}, rejects=rejects, n_made=1,
    )  # fmt: skip


def _documents(columns: Columns, first: int) -> pa.Table:
    """What dedup reads of documents; their ids are their numbers, so that marks lead back to the user's."""
    kept = np.flatnonzero(~np.asarray(columns.texts.is_null()))
    texts = columns.texts.take(pa.array(kept))
    numbers = np.zeros((len(kept), 2), np.uint64)
    numbers[:, 1] = kept + first
    storage = pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), len(kept), [None, pa.py_buffer(numbers)])
    return pa.table(
        {
            "doc_id": pa.ExtensionArray.from_storage(UUID, storage),
            "shard": pa.array([f"{first:020}"] * len(kept), pa.string()),
            "row": pa.array(kept.astype(np.int32)),
            **dict.fromkeys(("text", "text_swhid", "url"), texts),
        }
    )


def key_marker(method: str) -> Marker:
    """Marks documents whose keys by `method` (exact, normal_text, url) are equal, or by SimHash with its own parameters."""
    if method == "simhash":
        return simhash_marker(SimHash())

    def mark(documents: Iterator[pa.Table], ids: Callable[[], pa.ChunkedArray], scratch: Path) -> pa.Table:
        from tilth.dedup.exact.keys import key_duplicates, keys_of

        tables = [keys_of(table, method) for table in documents]
        return key_duplicates(lambda: tables, method)

    return mark


def simhash_marker(parameters: SimHash) -> Marker:
    """Marks documents whose fingerprints are as near as `parameters` say."""

    def mark(documents: Iterator[pa.Table], ids: Callable[[], pa.ChunkedArray], scratch: Path) -> pa.Table:
        from tilth.dedup.simhash.duplicates import fingerprints, simhash_duplicates

        return simhash_duplicates([fingerprints(table, parameters) for table in documents], parameters)

    return mark


def semantic_marker(embeddings: Path, threshold: float, id_name: str) -> Marker:
    """Marks documents whose embeddings (`open_embeddings_of_files`) have a cosine of at least `threshold`."""
    from tilth.dedup.semantic.duplicates import Semantic, semantic_duplicates

    parameters = Semantic(str(embeddings), threshold)

    def mark(documents: Iterator[pa.Table], ids: Callable[[], pa.ChunkedArray], scratch: Path) -> pa.Table:
        from tilth.dedup.semantic.embedding_files import open_embeddings_of_files

        tables = [table.select(["doc_id", "shard", "row"]) for table in documents]
        if not tables:
            return DUPLICATES.schema.empty_table()
        keys = pa.concat_tables(tables)
        read = open_embeddings_of_files(embeddings, ids(), _numbers(keys.column("doc_id")), id_name, scratch)
        return semantic_duplicates(keys, read, parameters, scratch)

    return mark


def _by_ids(marks: pa.Table, ids: pa.ChunkedArray) -> pa.Table:
    columns: dict[str, Any] = {
        name: ids.take(pa.array(_numbers(marks.column(of))))
        for name, of in (("id", "doc_id"), ("cluster_id", "cluster_id"), ("matched_id", "matched_id"))
    }
    schema = duplicates_schema(ids.type)
    return pa.table(
        [columns.get(name, marks.column(name) if name not in columns else None) for name in schema.names], schema=schema
    )


def _numbers(column: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    parts = [np.zeros(0, np.uint64)]
    for chunk in column.chunks:
        words = np.frombuffer(chunk.storage.buffers()[1], np.uint64).reshape(-1, 2)
        parts.append(words[chunk.offset : chunk.offset + len(chunk), 1])
    return np.concatenate(parts).astype(np.int64)
