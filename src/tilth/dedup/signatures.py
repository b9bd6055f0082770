"""MinHash signatures of documents, kept as one 64-bit key for each band."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tilth.dedup.parameters import MinHashParameters
from tilth.dedup.shingles import Hashes, Shingler, mix
from tilth.errors import ContractError

PARAMETERS_KEY = b"tilth.minhash"
_TEXTS_AT_ONCE, _CHARS_AT_ONCE = 256, 4 << 20
_SHINGLES_AT_ONCE = 1024  # keeps the block of permuted shingles inside the second-level cache


def signature_schema(parameters: MinHashParameters) -> pa.Schema:
    """doc_id, shard, row, n_shingles (distinct), band_keys (null without tokens); the parameters are in the metadata."""
    fields = [
        pa.field("doc_id", pa.uuid(), nullable=False),
        pa.field("shard", pa.string(), nullable=False),
        pa.field("row", pa.int32(), nullable=False),
        pa.field("n_shingles", pa.int64(), nullable=False),
        pa.field("band_keys", pa.list_(pa.uint64(), parameters.n_bands)),
    ]
    return pa.schema(fields, metadata={PARAMETERS_KEY: parameters.label().encode()})


def signatures(documents: pa.Table | pa.RecordBatch, parameters: MinHashParameters) -> pa.Table:
    """Signatures of `documents` (doc_id, shard, row, text), one row each in the same order.

    Each document's signature depends on its text and the parameters only, so shards and batches can be cut anyhow.
    """
    shingler, minhash = Shingler(parameters.n), _MinHash(parameters)
    table = pa.Table.from_batches([documents]) if isinstance(documents, pa.RecordBatch) else documents
    keys = np.zeros((table.num_rows, parameters.n_bands), dtype=np.uint64)
    n_shingles = np.zeros(table.num_rows, dtype=np.int64)
    row = 0
    for texts in _portions(table.column("text")):
        sets = shingler.shingle_sets(texts)
        n_shingles[row : row + len(sets)] = [len(shingles) for shingles in sets]
        keys[row : row + len(sets)] = minhash.band_keys(sets)
        row += len(sets)
    bands = pa.FixedSizeListArray.from_arrays(pa.array(keys.reshape(-1)), parameters.n_bands, mask=pa.array(n_shingles == 0))
    columns = [_flat(table, "doc_id"), _flat(table, "shard"), _flat(table, "row"), pa.array(n_shingles), bands]
    return pa.Table.from_arrays(columns, schema=signature_schema(parameters))


def join_signatures(tables: Iterable[pa.Table], parameters: MinHashParameters) -> pa.Table:
    """All signatures in one table. Raises ContractError if some were made with other parameters."""
    schema = signature_schema(parameters)
    tables = list(tables)
    for table in tables:
        found = (table.schema.metadata or {}).get(PARAMETERS_KEY)
        if found != parameters.label().encode() or table.schema.types != schema.types:
            raise ContractError(
                "signatures were made with other parameters than they are compared with",
                where=f"{(found or b'no label').decode()} instead of {parameters.label()}",
                fix="make the signatures again",
            )
    return pa.concat_tables([schema.empty_table(), *tables])


def _portions(column: pa.ChunkedArray) -> Iterator[list[str]]:
    """The texts in lists that stay small, since tokens take many times the memory of their text."""
    portion: list[str] = []
    n_chars = 0
    for chunk in column.chunks:
        for value in chunk:
            portion.append(value.as_py())
            n_chars += len(portion[-1])
            if len(portion) == _TEXTS_AT_ONCE or n_chars >= _CHARS_AT_ONCE:
                yield portion
                portion, n_chars = [], 0
    yield portion


class _MinHash:
    """Random linear maps of 32-bit values, the smallest image under each, and a key for each band of them."""

    def __init__(self, parameters: MinHashParameters) -> None:
        self.shape = (parameters.n_bands, parameters.n_rows)
        words = random_words(parameters.seed, 2 * parameters.n_permutations + parameters.n_bands)
        n = parameters.n_permutations
        # Odd factors make each map a permutation of the 32-bit values.
        self.factors_P1 = ((words[:n] >> np.uint64(32)).astype(np.uint32) | np.uint32(1))[:, None]
        self.offsets_P1 = (words[n : 2 * n] >> np.uint64(32)).astype(np.uint32)[:, None]
        self.band_salts = words[2 * n :]

    def band_keys(self, sets: Sequence[Hashes]) -> Hashes:
        """The keys (n_sets, n_bands) of shingle sets; those of an empty set mean nothing."""
        minima_SBR = np.array([self._minima(shingles) for shingles in sets], np.uint32).reshape(len(sets), *self.shape)
        keys = np.tile(self.band_salts, (len(sets), 1))
        for row in range(self.shape[1]):
            keys = mix(keys ^ minima_SBR[:, :, row])
        return keys

    def _minima(self, shingles: Hashes) -> npt.NDArray[np.uint32]:
        minima = np.full(len(self.factors_P1), np.iinfo(np.uint32).max, dtype=np.uint32)
        values = (shingles >> np.uint64(32)).astype(np.uint32)
        for start in range(0, len(values), _SHINGLES_AT_ONCE):
            images = self.factors_P1 * values[start : start + _SHINGLES_AT_ONCE]
            images += self.offsets_P1
            np.minimum(minima, images.min(axis=1), out=minima)
        return minima


def random_words(seed: int, count: int) -> npt.NDArray[np.uint64]:
    """`count` 64-bit words of the splitmix64 sequence: the same on every machine and for every version of NumPy."""
    steps = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return mix(steps + np.uint64(seed & 0xFFFFFFFFFFFFFFFF))


def _flat(table: pa.Table, name: str) -> pa.Array:
    return table.column(name).combine_chunks()
