"""Exact Jaccard similarity of proposed pairs, from the texts themselves; each text is read once, and memory is bounded."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from numba import njit

from tilth.dedup.minhash.candidates import HALF, Codes, first_documents
from tilth.dedup.minhash.parameters import Unit
from tilth.dedup.minhash.shingles import distinct_sets, in_batches, shingle
from tilth.dedup.minhash.signatures import SignedShard
from tilth.dedup.sorted_arrays import distinct
from tilth.dedup.texts.tokens import Ints
from tilth.errors import ContractError

# shard's number, ascending rows -> their texts in that order, in arrays of any length
ReadTexts = Callable[[int, Ints], Iterator[pa.Array]]
Pairs = npt.NDArray[np.void]  # of the type PAIR, ascending by code
Similarities = npt.NDArray[np.float32]
_LOW = np.uint64(0xFFFFFFFF)
_PAIRS_AT_ONCE = 1 << 14  # their sets are mapped into memory together
PAIR = np.dtype([("code", np.uint64), ("similarity", np.float32)])


class Comparison:
    """Similarities of pairs of documents that are numbered through all `shards`.

    `known` are pairs of an earlier search (PAIR, ascending): they are not compared again. `folder` takes the shingle sets
    of all documents that are compared, 8 bytes a shingle.
    """

    def __init__(
        self, shards: Sequence[SignedShard], read_texts: ReadTexts, n: int, unit: Unit, folder: Path, known: Pairs | None = None
    ) -> None:
        self.shards, self.first, self.read_texts, self.n, self.unit = shards, first_documents(shards), read_texts, n, unit
        self.known = np.zeros(0, PAIR) if known is None else known
        self.n_compared = self.n_texts_read = self.n_known = 0
        self._starts = np.lib.format.open_memmap(folder / "starts.npy", mode="w+", dtype=np.int64, shape=(int(self.first[-1]), 2))
        self._path = folder / "sets.bin"
        self._path.write_bytes(b"")
        self._n_values = 0
        self._asked: list[Pairs] = []

    def pairs(self) -> Pairs:
        """Every pair whose similarity was asked for."""
        found = np.concatenate([np.zeros(0, PAIR), *self._asked])
        return found[np.argsort(found["code"], kind="stable")]

    def prepare(self, codes: Codes) -> None:
        """Read the texts of pairs that will probably be asked for, all together: files are read through once."""
        self._load(codes)

    def similarities(self, codes: Codes) -> Similarities:
        """|A and B| / |A or B| of each pair (ascending, distinct), exact up to collisions of 64-bit hashes."""
        found = np.empty(len(codes), np.float32)
        is_open = np.ones(len(codes), np.bool_)
        for pairs in self._asked:
            _look_up(pairs, codes, found, is_open)
        unasked = np.flatnonzero(is_open)
        _look_up(self.known, codes, found, is_open)
        new = np.flatnonzero(is_open)
        self._load(codes[new])
        for part in np.array_split(new, len(new) // _PAIRS_AT_ONCE + 1):
            found[part] = self._compare(codes[part])
        asked = np.empty(len(unasked), PAIR)
        asked["code"], asked["similarity"] = codes[unasked], found[unasked]
        self._asked.append(asked)
        self.n_compared += len(new)
        self.n_known += len(unasked) - len(new)
        return found

    def _compare(self, codes: Codes) -> Similarities:
        out = np.empty(len(codes), np.float32)
        if not len(codes):
            return out
        with open(self._path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            values = np.frombuffer(mapped, np.uint64)
            _jaccard(codes, self._starts, values, out)
            del values
        return out

    def _load(self, codes: Codes) -> None:
        """Make sure that the sets of the documents of `codes` lie in the file."""
        documents = distinct(np.concatenate([codes >> HALF, codes & _LOW])).astype(np.int64)
        missing = documents[self._starts[documents, 1] == 0]
        for shard in range(len(self.first) - 1):
            begin, end = np.searchsorted(missing, self.first[shard : shard + 2])
            if begin < end:
                self._read(shard, missing[begin:end])

    def _read(self, shard: int, documents: Ints) -> None:
        rows, done = documents - self.first[shard], 0
        sizes = self.shards[shard].sizes[rows]
        for texts in self.read_texts(shard, rows):
            for batch in in_batches(texts):
                found = shingle(batch, self.n, self.unit)
                here = documents[done : done + len(batch)]
                if not np.array_equal(np.diff(found.ends), sizes[done : done + len(batch)]):
                    what = "the texts are not those that the signatures were made from"
                    raise ContractError(what, self.shards[shard].name, "Run it again: what has changed is signed anew.")
                sets = distinct_sets(found)
                with self._path.open("ab") as file:
                    sets.values.tofile(file)
                self._starts[here] = np.stack([sets.ends[:-1], sets.ends[1:]], axis=1) + self._n_values
                self._n_values += len(sets.values)
                done += len(batch)
        if done != len(documents):
            raise ContractError(f"{len(documents)} texts were asked for and {done} came", self.shards[shard].name)
        self.n_texts_read += done


def _look_up(pairs: Pairs, codes: Codes, found: Similarities, is_open: npt.NDArray[np.bool_]) -> None:
    """Fill in `found`, and close, the open ones of `codes` that are among `pairs`."""
    if len(pairs):
        places = np.minimum(np.searchsorted(pairs["code"], codes), len(pairs) - 1)
        hits = is_open & (pairs["code"][places] == codes)
        found[hits] = pairs["similarity"][places[hits]]
        is_open[hits] = False


@njit(cache=True, nogil=True)
def _jaccard(codes, spans, values, out):  # type: ignore[no-untyped-def]
    for pair in range(len(codes)):
        left, right = np.int64(codes[pair] >> HALF), np.int64(codes[pair] & _LOW)
        i, i_end, j, j_end = spans[left, 0], spans[left, 1], spans[right, 0], spans[right, 1]
        n_both = (i_end - i) + (j_end - j)
        shared = 0
        while i < i_end and j < j_end:
            a, b = values[i], values[j]
            shared += a == b
            i += a <= b
            j += b <= a
        out[pair] = np.float32(shared / (n_both - shared))
