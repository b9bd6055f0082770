"""The signatures of one shard as files: what is needed to find candidates without its texts.

ids.arrow        id of each document, in the order of rows
sizes.npy        int32 (rows): shingles, with repetitions; 0 where there is nothing to compare
set_keys.npy     uint64 (rows): equal for equal shingles (tilth.dedup.minhash.shingles.set_keys)
bands.npy        uint64 (bands x rows that have shingles): in each band the key's upper 40 bits and the row, ascending

Candidates share a band's 40 bits; that they are what they seem is verified later, so a chance collision costs a comparison.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from numba import njit

from tilth.dedup.bucket_sort import ascending
from tilth.dedup.minhash.parameters import MinHashParameters
from tilth.dedup.minhash.published_minima import datasketch_minima
from tilth.dedup.minhash.shingles import in_batches, set_keys, shingle
from tilth.dedup.minhash.sketch import ComputeSketches, Words, sketches
from tilth.dedup.texts.mixing import Hashes, mix, random_words
from tilth.errors import ContractError

ROW_BITS = 24
MAX_ROWS = 1 << ROW_BITS
_ROW = np.uint64(MAX_ROWS - 1)


class Signed(NamedTuple):
    """Signatures of some documents: ids, int32 sizes, uint64 set keys, and uint64 band keys (documents x bands)."""

    ids: pa.Array
    sizes: npt.NDArray[np.int32]
    set_keys: Hashes
    band_keys: Hashes


def sign(ids: pa.Array, texts: pa.Array, parameters: MinHashParameters, compute: ComputeSketches | None = None) -> Signed:
    """Signatures of `texts` (string or large_string; nulls have nothing to compare): each depends on its text alone."""
    parts = [_sign(batch, parameters, compute) for batch in in_batches(texts)]
    none = (np.zeros(0, np.int32), np.zeros(0, np.uint64), np.zeros((0, parameters.n_bands), np.uint64))
    return Signed(ids, *(np.concatenate(columns) for columns in zip(none, *parts, strict=True)))


def _sign(texts: pa.Array, parameters: MinHashParameters, compute: ComputeSketches | None) -> tuple[np.ndarray, ...]:
    found = shingle(texts, parameters.n, parameters.unit)
    count = parameters.n_permutations
    if parameters.definition == "tilth":
        rows = sketches(found, parameters.seed, count, compute)
    else:
        scheme = "legacy" if parameters.definition == "datasketch-legacy" else "affine32"
        rows = datasketch_minima(texts, parameters.n, parameters.unit, parameters.seed, count, scheme)
    keys = band_keys(rows, parameters.n_bands, parameters.n_rows, parameters.seed)
    return np.diff(found.ends).astype(np.int32), set_keys(found), keys


def band_keys(found: Words, n_bands: int, n_rows: int, seed: int) -> Hashes:
    """Texts x bands: a 64-bit key for the `n_rows` places of each band; a key says which band it is of."""
    salts = random_words(~seed, n_bands)
    out = np.empty((len(found), n_bands), np.uint64)
    _band_keys(found, n_rows, salts, out)
    return out


def write_signatures(folder: Path, batches: Iterable[Signed], n_bands: int, id_type: pa.DataType) -> int:
    """Write the files of a shard from batches in the order of its rows; returns the rows. Memory: the band keys.

    Raises ContractError for a shard of more rows than a run of band keys can number.
    """
    sizes, keys_of_sets, keys = [np.zeros(0, np.int32)], [np.zeros(0, np.uint64)], [np.zeros((n_bands, 0), np.uint64)]
    with pa.OSFile(str(folder / "ids.arrow"), "wb") as raw, pa.ipc.new_file(raw, pa.schema([("id", id_type)])) as file:
        for batch in batches:
            file.write_batch(pa.record_batch([batch.ids], names=["id"]))
            sizes.append(batch.sizes)
            keys_of_sets.append(batch.set_keys)
            keys.append(np.ascontiguousarray(batch.band_keys.T))  # while they are near: each band is read by itself
    all_sizes = np.concatenate(sizes)
    if len(all_sizes) > MAX_ROWS:
        raise ContractError(f"a shard of {len(all_sizes)} rows, at most {MAX_ROWS}", str(folder), "Cut it into smaller shards.")
    np.save(folder / "sizes.npy", all_sizes)
    np.save(folder / "set_keys.npy", np.concatenate(keys_of_sets))
    kept = np.flatnonzero(all_sizes)
    rows = kept.astype(np.uint64)
    runs = np.lib.format.open_memmap(folder / "bands.npy", mode="w+", dtype=np.uint64, shape=(n_bands, len(kept)))
    for band in range(n_bands):
        column = np.concatenate([part[band] for part in keys])
        runs[band] = ascending((column[kept] & ~_ROW) | rows)
    runs.flush()
    return len(all_sizes)


class SignedShard:
    """A shard's files, mapped into memory as they are used."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name = folder, name

    @property
    def sizes(self) -> npt.NDArray[np.int32]:
        """Shingles of each row."""
        return np.load(self.folder / "sizes.npy")

    @property
    def set_keys(self) -> Hashes:
        """Of each row; a map."""
        return self._map("set_keys.npy")

    @property
    def bands(self) -> Hashes:
        """The runs, bands x rows; a map."""
        return self._map("bands.npy")

    def _map(self, name: str) -> Hashes:
        """Words of a file, of which only what is looked at is read; it holds no file open."""
        path = self.folder / name
        with open(path, "rb") as file:
            np.lib.format.read_magic(file)
            shape, _, _ = np.lib.format.read_array_header_1_0(file)
            start = file.tell()
        with pa.memory_map(str(path)) as file:
            return np.frombuffer(file.read_buffer(), np.uint64, offset=start).reshape(shape)

    def n_rows(self) -> int:
        """Rows of the shard, whether or not they have shingles."""
        return int(np.load(self.folder / "sizes.npy", mmap_mode="r").shape[0])

    def ids(self) -> pa.ChunkedArray:
        """Of all rows; a map."""
        with pa.memory_map(str(self.folder / "ids.arrow")) as raw:
            return pa.ipc.open_file(raw).read_all().column("id")


@njit(cache=True, nogil=True)
def _band_keys(found, n_rows, salts, out):  # type: ignore[no-untyped-def]
    for text in range(len(found)):
        for band in range(len(salts)):
            state = salts[band]
            for row in range(band * n_rows, band * n_rows + n_rows):
                state = mix(state ^ np.uint64(found[text, row]))
            out[text, band] = state
