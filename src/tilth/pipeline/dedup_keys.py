"""Copies in the user's own files by equal keys or near fingerprints: exact, normal text, URL, SimHash; in one pass, in memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from tilth.contracts.contract import UUID
from tilth.corpus.columns import Columns, Fields, read_columns
from tilth.errors import RecipeError
from tilth.pipeline.dedup_files import WHERE, Deduplicated, Search, check_ids, find_pieces, whole_output
from tilth.pipeline.file_keepers import check_rule, keep_by_rule
from tilth.pipeline.near_steps import duplicates_schema
from tilth.pipeline.progress import progress

METHODS = ("exact", "normal_text", "url", "simhash")


def deduplicate_by_keys(search: Search, method: str, compared: str) -> Deduplicated:
    """Write `search.output` as `deduplicate` does, with the marks of `method` on the field `compared`.

    Memory: the ids, and 50 bytes a document. Raises SourceError as `deduplicate` does; RecipeError for `gone` and `index`,
    which only MinHash has.
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

    marks = _marks(method, batches())
    joined = pa.chunked_array([part for parts in ids for part in parts], found.id_type)
    check_ids([joined])
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


def _marks(method: str, documents: Iterator[pa.Table]) -> pa.Table:
    if method == "simhash":
        from tilth.dedup.simhash.duplicates import SimHash, fingerprints, simhash_duplicates

        parameters = SimHash()
        return simhash_duplicates([fingerprints(table, parameters) for table in documents], parameters)
    from tilth.dedup.exact.keys import key_duplicates, keys_of

    tables = [keys_of(table, method) for table in documents]
    return key_duplicates(lambda: tables, method)


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
