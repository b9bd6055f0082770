"""Documents of many tables in compact arrays: 24 bytes each, and what is compared of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tilth.contracts.contract import UUID
from tilth.dedup.marks import Matches, mark

Ints = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]
Numbers = TypeVar("Numbers", npt.NDArray[np.uint8], npt.NDArray[np.int32], npt.NDArray[np.uint64])


class Places(NamedTuple):
    """Where documents are and what they are called. `names` of shards ascend, so `shards` (places in it) sort as they do."""

    ids: npt.NDArray[np.uint8]  # (n, 16)
    shards: npt.NDArray[np.int32]
    rows: npt.NDArray[np.int32]
    names: list[str]

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, chosen: npt.NDArray[np.int64] | npt.NDArray[np.bool_]) -> Places:
        """Some of them, in that order."""
        return Places(self.ids[chosen], self.shards[chosen], self.rows[chosen], self.names)

    def table(self) -> pa.Table:
        """Columns doc_id, shard, row."""
        storage = pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), len(self), [None, pa.py_buffer(self.ids.tobytes())])
        columns = {
            "doc_id": pa.ExtensionArray.from_storage(UUID, storage),
            "shard": pa.array(self.names, pa.string()).take(pa.array(self.shards)),
            "row": pa.array(self.rows, pa.int32()),
        }
        return pa.table(columns)


def collect(tables: Iterable[pa.Table | pa.RecordBatch], column: str, n_words: int) -> tuple[Places, Words]:
    """The documents of `tables` (doc_id, shard, row) and their values in `column`, as words of 8 bytes (n, n_words).

    `column` is of fixed width, without nulls. Takes one table after the other.
    """
    ids, values = [np.zeros((0, 16), np.uint8)], [np.zeros((0, n_words), np.uint64)]
    shards, rows = [np.zeros(0, np.int32)], [np.zeros(0, np.int32)]
    codes: dict[str, int] = {}
    for table in tables:
        for batch in batches_of(table):
            encoded = pc.dictionary_encode(batch.column("shard"))
            own = [codes.setdefault(name, len(codes)) for name in encoded.dictionary.to_pylist()]
            shards.append(np.array(own, np.int32)[np.asarray(encoded.indices)])
            rows.append(batch.column("row").to_numpy(zero_copy_only=False).astype(np.int32, copy=False))
            ids.append(_fixed_bytes(batch.column("doc_id").storage, 16))
            values.append(fixed_words(batch.column(column), n_words))
    names = sorted(codes)
    ranks = np.zeros(len(names), np.int32)
    ranks[[codes[name] for name in names]] = np.arange(len(names), dtype=np.int32)
    return Places(_joined(ids), ranks[_joined(shards)], _joined(rows), names), _joined(values)


def marks_of(places: Places, matches: Matches, method: str, threshold: float) -> pa.Table:
    """duplicates/1 for `places`, which are in the order of (shard, row) and all or some of them in clusters."""
    return mark(places.table(), matches, method, threshold)


def batches_of(table: pa.Table | pa.RecordBatch) -> list[pa.RecordBatch]:
    """The batches of a table, or the one that it is."""
    return table.to_batches() if isinstance(table, pa.Table) else [table]


def fixed_words(array: pa.Array, n_words: int) -> Words:
    """The values of an array of fixed width without nulls, as words of 8 bytes (n, n_words)."""
    return _fixed_bytes(array, 8 * n_words).view(np.uint64)


def _fixed_bytes(array: pa.Array, width: int) -> npt.NDArray[np.uint8]:
    data = np.frombuffer(array.buffers()[1], np.uint8) if len(array) else np.zeros(0, np.uint8)
    return data[array.offset * width : (array.offset + len(array)) * width].reshape(-1, width)


def _joined(parts: list[Numbers]) -> Numbers:
    """The parts as one, and the list emptied: so two copies of one column are the most there is at once."""
    whole = np.concatenate(parts)
    parts.clear()
    return whole
