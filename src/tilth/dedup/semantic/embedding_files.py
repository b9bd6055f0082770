"""Embeddings that the user made, in a file: which row of it belongs to which document.

.npy       float [n, d]: a row for each document of the corpus in the order of (shard, row)
.parquet   doc_id (UUID, 16 bytes, or text), or shard and row; and `embedding`, a list of d floats, in any order
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tilth.dedup.marks import canonical_order
from tilth.errors import ContractError, SourceError

Ints = npt.NDArray[np.int64]
_COLUMN = "embedding"
_FORMATS = "Give a .npy file, or a .parquet file with doc_id (or shard and row) and `embedding`."


def open_embeddings(path: Path, documents: pa.Table, scratch: Path) -> Callable[[Ints], Any]:
    """A function from rows of `documents` (doc_id, shard, row) to their vectors, which stay on the disk.

    A Parquet file may hold further documents. Raises SourceError for a file that is not there or of another kind,
    ContractError where a document has no vector or several, or vectors differ in width.
    """
    if _suffix(path, _FORMATS) == ".npy":
        vectors = _array(path, documents.num_rows, "Give a row for each document in the order of (shard, row).")
        numbered = documents.append_column("place", pa.array(np.arange(documents.num_rows, dtype=np.int64)))
        row_of = np.empty(documents.num_rows, np.int64)
        row_of[canonical_order(numbered).column("place").to_numpy()] = np.arange(documents.num_rows)
        return lambda rows: vectors[row_of[rows]]
    with _table(path, _FORMATS) as file:
        key_names = ["doc_id"] if "doc_id" in file.schema_arrow.names else ["shard", "row"]
    wanted = pa.chunked_array([_keys(documents.combine_chunks(), key_names)])
    return _of_table(path, key_names, lambda batch: _keys(batch, key_names), wanted, scratch / "embeddings.f32", _FORMATS)


def open_embeddings_of_files(
    path: Path, ids: pa.ChunkedArray, kept: Ints, id_name: str, scratch: Path
) -> Callable[[Ints], Any]:  # fmt: skip
    """The same for a user's own files, whose rows have `ids`: from places in `kept`, the rows that are documents.

    .npy has a vector for every row of the files, in their order; .parquet the columns `id_name` and `embedding`, and may hold
    further ids. Raises as `open_embeddings`.
    """
    formats = f"Give a .npy file, or a .parquet file with `{id_name}` and `{_COLUMN}`."
    if _suffix(path, formats) == ".npy":
        vectors = _array(path, len(ids), "Give a vector for each row of the files, in the order of their names.")
        return lambda rows: vectors[kept[rows]]
    wanted = ids.take(pa.array(kept)).cast(pa.string())
    return _of_table(
        path, [id_name], lambda batch: batch.column(id_name).cast(pa.string()), wanted, scratch / "embeddings.f32", formats
    )


def _suffix(path: Path, formats: str) -> str:
    if not path.is_file():
        raise SourceError("the file of embeddings is not there", where=str(path), fix=formats)
    if path.suffix not in (".npy", ".parquet"):
        raise SourceError(f"`{path.suffix}` is no format of embeddings", where=str(path), fix=formats)
    return path.suffix


def _array(path: Path, n_rows: int, order: str) -> Any:
    try:
        vectors = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise SourceError(f"the embeddings cannot be read: {error}", where=str(path), fix=order) from error
    if vectors.ndim != 2 or len(vectors) != n_rows:
        raise ContractError(f"{n_rows} documents, but embeddings of the shape {vectors.shape}", where=str(path), fix=order)
    return vectors


def _table(path: Path, formats: str) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise SourceError(f"the embeddings cannot be read: {error}", where=str(path), fix=formats) from error


def _of_table(
    path: Path,
    key_names: list[str],
    keys_of: Callable[[pa.RecordBatch], pa.Array],
    wanted: pa.ChunkedArray,
    scratch: Path,
    formats: str,
) -> Callable[[Ints], Any]:
    with _table(path, formats) as file, open(scratch, "wb") as vectors:
        missing = [name for name in (*key_names, _COLUMN) if name not in file.schema_arrow.names]
        if missing:
            raise ContractError(f"the embeddings have no column `{missing[0]}`", where=str(path), fix=formats)
        keys, d = [], 0
        for batch in file.iter_batches(4096, columns=[*key_names, _COLUMN]):
            keys.append(keys_of(batch))
            block = _matrix(batch.column(_COLUMN), path)
            if d and block.shape[1] != d:
                raise ContractError("the embeddings differ in width", where=str(path), fix=f"{d} and {block.shape[1]}")
            d = block.shape[1]
            vectors.write(block.tobytes())
    found = pa.chunked_array(keys, pa.string()) if keys else pa.chunked_array([[]], pa.string())
    row_of = _rows_in(found, wanted, path)
    if not len(found):
        return lambda rows: np.zeros((len(rows), 1), np.float32)
    stored = np.memmap(scratch, np.float32, "r", shape=(len(found), d))
    return lambda rows: stored[row_of[rows]]


def _rows_in(found: pa.ChunkedArray, wanted: pa.ChunkedArray, path: Path) -> Ints:
    n_repeated = len(found) - len(pc.unique(found))
    if n_repeated:
        raise ContractError(f"{n_repeated} documents have several embeddings", where=str(path), fix="Give each document one.")
    rows = pc.index_in(wanted, value_set=found.combine_chunks())
    if rows.null_count:
        example = wanted.filter(pc.is_null(rows))[0].as_py()
        what = f"{rows.null_count} of {len(wanted)} documents have no embedding"
        raise ContractError(what, where=f"{example} in {path}", fix="Embed them as well; zeros stand for a text without meaning.")
    return np.asarray(rows.to_numpy(), np.int64)


def _keys(table: pa.Table | pa.RecordBatch, names: list[str]) -> pa.Array:
    """doc_id as 32 hexadecimal digits, or shard:row."""
    if names == ["doc_id"]:
        column = table.column("doc_id")
        column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
        column = column.storage if isinstance(column, pa.ExtensionArray) else column
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            return pc.utf8_lower(pc.replace_substring(column.cast(pa.string()), "-", ""))
        return pa.array([None if value is None else value.hex() for value in column.to_pylist()], pa.string())
    shard, row = (table.column(name) for name in names)
    joined = pc.binary_join_element_wise(shard.cast(pa.string()), row.cast(pa.string()), ":")
    return joined.combine_chunks() if isinstance(joined, pa.ChunkedArray) else joined


def _matrix(column: pa.Array, path: Path) -> npt.NDArray[np.float32]:
    is_list = pa.types.is_fixed_size_list(column.type) or pa.types.is_list(column.type) or pa.types.is_large_list(column.type)
    if not is_list or column.null_count:
        what = f"`{_COLUMN}` is {column.type} with {column.null_count} nulls"
        raise ContractError(what, where=str(path), fix="It holds a list of floats for each document.")
    widths = pc.unique(pc.list_value_length(column)).to_pylist()
    if len(widths) != 1 or not widths[0]:
        raise ContractError("the embeddings differ in width", where=str(path), fix="Give lists of one length, not 0.")
    return np.ascontiguousarray(column.flatten().to_numpy(zero_copy_only=False), np.float32).reshape(-1, widths[0])
