"""Which documents were seen before, in ten bits a document or so: a Bloom filter (Bloom 1970) with a stated error rate.

For streams too large for key tables, and for crawls that come one after the other: of every key the first document in the
stream is kept, whatever was seen in earlier runs included. The price is that a new document is taken for a copy with
probability `error_rate` or less, and that nothing says which document it would be a copy of. So the result is not
duplicates/1, which names a verified match, but seen/1: the documents that were seen before, and how sure that is. Documents
that have nothing to compare are never in it.

The order of the stream decides which copy is the first, so this is the one part of the room in which order counts.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from numba import njit

from tilth.artifacts.atomic import disk_errors, write_atomically
from tilth.contracts import SEEN, check
from tilth.dedup.exact.keys import key_column, keys_of
from tilth.dedup.texts.hashing import Hashes
from tilth.errors import ContractError, RecipeError

_MAGIC = b"tilth.bloom/1\n"
_HEADER_BYTES = 4096
_ONE = np.uint64(1)


@dataclass(frozen=True)
class BloomParameters:
    """A filter for `expected` different keys of `method` (exact, normal_text, url) that errs at most at `error_rate`.

    The rate holds for the last of the expected keys; before that it is lower. Raises RecipeError for values that cannot be.
    """

    expected: int
    error_rate: float
    method: str = "exact"

    def __post_init__(self) -> None:
        key_column(self.method)
        if self.expected < 1 or not 0 < self.error_rate < 1:
            fix = "for example BloomParameters(1_000_000_000, 1e-4)"
            raise RecipeError("a filter needs `expected` of 1 or more and an `error_rate` between 0 and 1", str(self), fix)

    @property
    def n_hashes(self) -> int:
        """Bits that are set for each key."""
        return max(1, round(self.n_bits / self.expected * math.log(2)))

    @property
    def n_bits(self) -> int:
        """Bits of the filter: n ln(1/p) / (ln 2)^2, and 2 % more since `n_hashes` is rounded; a multiple of 64."""
        wanted = -self.expected * math.log(self.error_rate) / math.log(2) ** 2
        return 64 * math.ceil((1.02 * wanted + 64) / 64)


class BloomFilter:
    """The keys that were seen, in memory; on disk after `save`. One process writes a filter at a time."""

    def __init__(self, parameters: BloomParameters, n_seen: int = 0, words: npt.NDArray[np.uint64] | None = None) -> None:
        self.parameters, self.n_seen = parameters, n_seen
        # The header lies before the bits, so that a filter of many gigabytes is written without a copy.
        self._file = np.zeros(_HEADER_BYTES // 8 + parameters.n_bits // 64, np.uint64) if words is None else words
        self._bits = self._file[_HEADER_BYTES // 8 :]

    @staticmethod
    def open(path: Path, parameters: BloomParameters) -> BloomFilter:
        """The filter at `path`, or a new one where there is none. Memory: its bits.

        Raises ContractError for a file that is no filter or a damaged one, RecipeError where it was made with other
        parameters, with the difference.
        """
        if not path.exists():
            return BloomFilter(parameters)
        with disk_errors(path):
            words = np.fromfile(path, np.uint64)
        found, n_seen = _header(path, words[: _HEADER_BYTES // 8].tobytes())
        if found != parameters:
            old, new = asdict(found), asdict(parameters)
            changed = ", ".join(f"{name} {old[name]} -> {new[name]}" for name in old if old[name] != new[name])
            fix = "Give the parameters that it was made with, or another path for a new filter."
            raise RecipeError(f"the Bloom filter was made with other parameters: {changed}", str(path), fix)
        if len(words) != _HEADER_BYTES // 8 + parameters.n_bits // 64:
            raise ContractError("the Bloom filter is cut short", str(path), "Take the copy of it from before, or begin anew.")
        return BloomFilter(parameters, n_seen, words)

    def save(self, path: Path) -> None:
        """Write the filter; whatever happens, the file is the old or the new one. Write what was found with it before."""
        header = json.dumps({**asdict(self.parameters), "n_seen": self.n_seen}, sort_keys=True).encode()
        self._file[: _HEADER_BYTES // 8] = np.frombuffer((_MAGIC + header).ljust(_HEADER_BYTES, b"\n"), np.uint64)
        write_atomically(path, self._file.data.cast("B"))

    def add(self, keys: Hashes) -> npt.NDArray[np.bool_]:
        """For each of `keys` (n, 2) whether it was seen before, earlier ones of the same call included; all are seen then.

        Raises ContractError when more different keys come than were expected: the stated rate would not hold.
        """
        seen = _look(self._bits, np.ascontiguousarray(keys), self.parameters.n_hashes, True)
        self.n_seen += len(keys) - int(seen.sum())
        if self.n_seen > self.parameters.expected:
            what = f"the Bloom filter is full: more than {self.parameters.expected:,} different keys came"
            raise ContractError(
                what, f"error_rate {self.parameters.error_rate}", "Begin a larger one; nothing of this run was saved."
            )
        return seen

    def contains(self, keys: Hashes) -> npt.NDArray[np.bool_]:
        """For each of `keys` (n, 2) whether it was seen; nothing is added."""
        found: npt.NDArray[np.bool_] = _look(self._bits, np.ascontiguousarray(keys), self.parameters.n_hashes, False)
        return found


def seen_documents(documents: Iterable[pa.Table | pa.RecordBatch], bloom: BloomFilter) -> Iterator[pa.Table]:
    """seen/1 for each of `documents` (doc_id, shard, row and the column that the filter's method compares), in their order.

    Every document after the first of its key is in it. `bloom` has met them all then; it is not saved.
    """
    method, error_rate = bloom.parameters.method, bloom.parameters.error_rate
    for batch in documents:
        keys = keys_of(batch, method)
        data = b"".join(
            chunk.buffers()[1][16 * chunk.offset : 16 * (chunk.offset + len(chunk))] for chunk in keys.column("key").chunks
        )
        found = keys.filter(pa.array(bloom.add(np.frombuffer(data, np.uint64).reshape(-1, 2))))
        said = [pa.array([method] * found.num_rows, pa.string()), pa.array([error_rate] * found.num_rows, pa.float64())]
        table = pa.table([*(found.column(name) for name in ("doc_id", "shard", "row")), *said], schema=SEEN.schema)
        check(table, SEEN)
        yield table


def _header(path: Path, data: bytes) -> tuple[BloomParameters, int]:
    if not data.startswith(_MAGIC):
        raise ContractError("this file is no Bloom filter", str(path), "Give the path of a filter, or of a file to be.")
    try:
        fields = json.loads(data[len(_MAGIC) :])
        return BloomParameters(fields["expected"], fields["error_rate"], fields["method"]), fields["n_seen"]
    except (ValueError, KeyError) as error:
        raise ContractError("the head of the Bloom filter is damaged", str(path), "Begin a new one.") from error


@njit(cache=True, nogil=True)
def _look(bits, keys, n_hashes, adding):  # type: ignore[no-untyped-def]
    """Whether all bits of each key are set, by enhanced double hashing of its two words (Dillinger and Manolios 2004)."""
    n_bits = np.uint64(64 * len(bits))
    seen = np.zeros(len(keys), np.bool_)
    for i in range(len(keys)):
        place, step = keys[i, 0] % n_bits, keys[i, 1] % n_bits
        is_seen = True
        for turn in range(n_hashes):
            word, bit = place >> np.uint64(6), _ONE << (place & np.uint64(63))
            if not bits[word] & bit:
                is_seen = False
                if not adding:
                    break
                bits[word] |= bit
            place = (place + step) % n_bits
            step = (step + np.uint64(turn + 1)) % n_bits
        seen[i] = is_seen
    return seen
