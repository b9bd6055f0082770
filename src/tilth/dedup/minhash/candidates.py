"""Which documents may be near-duplicates: those that share a band key, found by merging the sorted runs of all shards.

Documents are numbered through all shards in their order. Of documents with equal shingles the first stands for all. A
bucket, the documents of one key, gives every pair of its first `max_bucket` members; what lies beyond that makes it a
crowd, which is compared with a few representatives instead, so that the work stays linear. Who is first in a crowd follows
from what the documents hold, not from their numbers, so that the same pairs are proposed in whatever order shards come.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from tilth.dedup.bucket_sort import ascending
from tilth.dedup.minhash.signatures import ROW_BITS, SignedShard
from tilth.dedup.sorted_arrays import distinct
from tilth.dedup.texts.mixing import Hashes
from tilth.dedup.texts.tokens import Ints
from tilth.errors import ContractError

Codes = npt.NDArray[np.uint64]  # a pair of documents: the smaller number in the upper half, the larger in the lower
Known = Callable[[int, int], Hashes | None]
HALF = np.uint64(32)
MAX_DOCUMENTS = (1 << 32) - 1
PART_ENTRIES = 1 << 22  # of a band that are sorted at once
_PAIRS_AT_ONCE = 1 << 18
_ROW = np.uint64((1 << ROW_BITS) - 1)


class Candidates(NamedTuple):
    """Distinct pairs, ascending; and crowds: crowd i has the members `members[ends[i]:ends[i + 1]]`, in an order of contents."""

    pairs: Codes
    members: Ints
    ends: Ints


class Company(NamedTuple):
    """Those entries of runs whose key another document has as well, all that a later search with more shards needs of the old.

    Of band b (of those searched) and shard s: `entries[ends[b * n_shards + s] : ends[b * n_shards + s + 1]]`, ascending.
    """

    entries: Hashes
    ends: Ints

    def of(self, band: int, shard: int, n_shards: int) -> Hashes:
        """Those of one band and shard."""
        at = band * n_shards + shard
        return self.entries[self.ends[at] : self.ends[at + 1]]


def first_documents(shards: Sequence[SignedShard]) -> Ints:
    """The number of each shard's first document, and of all. Raises ContractError for 2^32 documents and more."""
    first = np.concatenate(([0], np.cumsum([shard.n_rows() for shard in shards]))).astype(np.int64)
    if first[-1] > MAX_DOCUMENTS:
        raise ContractError(f"{first[-1]} documents in one search, at most {MAX_DOCUMENTS}", fix="Search languages apart.")
    return first


def representatives(shards: Sequence[SignedShard], removed: npt.NDArray[np.bool_] | None = None) -> Ints:
    """For each document the first one with the same shingles; -1 where there is nothing to compare or it is `removed`.

    Memory: up to 33 bytes a document.
    """
    keys = np.concatenate([np.zeros(0, np.uint64), *(shard.set_keys for shard in shards)])
    nothing = np.concatenate([np.zeros(0, np.bool_), *(shard.sizes == 0 for shard in shards)])
    if removed is not None:
        nothing |= removed
    found = np.arange(len(keys), dtype=np.int64)
    found[nothing] = -1
    _find_first(keys, np.zeros(1 << (2 * len(keys)).bit_length(), np.uint32), found)
    return found


def find_candidates(
    shards: Sequence[SignedShard],
    bands: Sequence[int],
    standing: Ints,
    max_bucket: int,
    known: Known | None = None,
    keeps_company: bool = False,
) -> tuple[Candidates, Company | None]:
    """The candidates that these `bands` propose, and who has company; `standing` is what `representatives` gives.

    `known` says of an earlier search of some of these shards, by number among `bands` and among `shards`, who had company; None
    for a shard that was not there. It saves going through the old shards once more, and changes nothing in the result.

    Memory: a byte a document, PART_ENTRIES entries, and twice what is returned.
    """
    first = first_documents(shards)
    stands = standing == np.arange(len(standing), dtype=np.int64)
    pairs, members, ends = _Pairs(len(standing)), [np.zeros(0, np.int64)], [np.zeros(1, np.int64)]
    company: list[Hashes] = []
    for at, band in enumerate(bands):
        runs = [shard.bands[band] for shard in shards]  # mapped for this band: the pages of the last one are given back
        if known is not None:
            runs = _without_the_lonely(runs, [known(at, shard) for shard in range(len(shards))])
        found: list[list[Hashes]] = [[] for _ in shards]
        for part in _parts(runs, first, stands):
            n_pairs, n_crowded, n_crowds = _count(part.packed, part.doc_bits, max_bucket)
            new, crowded = np.empty(n_pairs, np.uint64), np.empty(n_crowded, np.int64)
            crowd_ends = np.empty(n_crowds, np.int64)
            packed = _crowds_by_content(part, max_bucket, shards, first) if n_crowds else part.packed
            _fill(packed, part.doc_bits, max_bucket, new, crowded, crowd_ends)
            pairs.add(new)
            ends.append(crowd_ends + sum(map(len, members)))
            members.append(crowded)
            for shard, entries in enumerate(_with_company(part, first) if keeps_company else ()):
                found[shard].append(entries)
        company.extend(np.concatenate([np.zeros(0, np.uint64), *entries]) for entries in found)
    held = Company(np.concatenate([np.zeros(0, np.uint64), *company]), np.cumsum([0, *map(len, company)]))
    return Candidates(pairs.all(), np.concatenate(members), np.concatenate(ends)), held if keeps_company else None


def all_candidates(parts: Sequence[Candidates]) -> Candidates:
    """What several groups of bands propose together."""
    pairs: Codes = np.concatenate([np.zeros(0, np.uint64), *(part.pairs for part in parts)])
    shifts = np.cumsum([0, *(len(part.members) for part in parts)])
    members = np.concatenate([np.zeros(0, np.int64), *(part.members for part in parts)])
    ends = np.concatenate([np.zeros(1, np.int64), *(part.ends[1:] + shift for part, shift in zip(parts, shifts, strict=False))])
    return Candidates(distinct(pairs, in_runs=True), members, ends)


class _Pairs:
    """Collects pairs: what came twice is there once, and they are put in order when there are as many new ones as old."""

    def __init__(self, n_documents: int) -> None:
        self._width = 32 + max(0, n_documents - 1).bit_length()
        self._ordered = np.zeros(0, np.uint64)
        self._new: list[Codes] = []
        self._n_new = 0

    def add(self, pairs: Codes) -> None:
        """Pairs of these documents in any order."""
        self._new.append(ascending(pairs, self._width))
        self._n_new += len(pairs)
        if self._n_new > max(len(self._ordered), _PAIRS_AT_ONCE):
            self._order()

    def all(self) -> Codes:
        """Every pair so far, once, ascending."""
        self._order()
        return self._ordered

    def _order(self) -> None:
        self._ordered = distinct(np.concatenate([self._ordered, *self._new]), in_runs=True)
        self._new, self._n_new = [], 0


def _without_the_lonely(runs: Sequence[Hashes], known: Sequence[Hashes | None]) -> list[Hashes]:
    """Of old runs those entries that had company or share a key with one of the new, and some that only begin like these.

    What is told apart by leading bits alone costs one look a entry; a lonely entry that stays gives no pair.
    """
    seen = [run if old is None else old for run, old in zip(runs, known, strict=True)]
    n_bits = min(64 - ROW_BITS, (8 * sum(map(len, seen))).bit_length())
    begins = np.zeros(1 << n_bits, np.bool_)
    for entries in seen:
        _note_beginnings(entries, 64 - n_bits, begins)
    return [run if old is None else _beginning_so(run, 64 - n_bits, begins) for run, old in zip(runs, known, strict=True)]


def _beginning_so(run: Hashes, shift: int, begins: npt.NDArray[np.bool_]) -> Hashes:
    kept = np.empty(len(run) + 1, np.uint64)
    return kept[: _keep_beginnings(run, shift, begins, kept)]


class _Part(NamedTuple):
    """Entries of a band whose keys begin with the `prefix_bits` of `prefix`: the rest of a key, above `doc_bits` of document."""

    packed: Hashes
    doc_bits: int
    prefix: int
    prefix_bits: int


def _parts(runs: Sequence[Hashes], first: Ints, stands: npt.NDArray[np.bool_]) -> Iterator[_Part]:
    """One band in ranges of its keys, ascending."""
    doc_bits = max(ROW_BITS, int(first[-1]).bit_length())
    n_entries = sum(len(run) for run in runs)
    n_bits = max(doc_bits - ROW_BITS, (n_entries // PART_ENTRIES).bit_length())
    for part in range(1 << n_bits):
        lowest = np.uint64(part) << np.uint64(64 - n_bits) if n_bits else np.uint64(0)
        highest = lowest | (np.uint64(0xFFFFFFFFFFFFFFFF) >> np.uint64(n_bits))
        slices = [run[np.searchsorted(run, lowest) : np.searchsorted(run, highest, side="right")] for run in runs]
        packed, n = np.empty(sum(map(len, slices)) + 1, np.uint64), 0
        for entries, shard_first in zip(slices, first, strict=False):
            n = _pack(entries, shard_first, stands, n_bits, doc_bits, packed, n)
        yield _Part(ascending(packed[:n], 64 - ROW_BITS - n_bits + doc_bits), doc_bits, part, n_bits)


def _crowds_by_content(part: _Part, max_bucket: int, shards: Sequence[SignedShard], first: Ints) -> Hashes:
    """The entries of a part, each crowd in the order of its documents' shingles: no two that stand for others have the same."""
    keys = part.packed >> np.uint64(part.doc_bits)
    starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
    sizes = np.diff(np.append(starts, len(keys)))
    places = np.flatnonzero(np.repeat(sizes > max_bucket, sizes))
    entries = part.packed[places]
    documents = (entries & np.uint64((1 << part.doc_bits) - 1)).astype(np.int64)
    of_shard = np.searchsorted(first, documents, side="right") - 1
    content = np.empty(len(documents), np.uint64)
    for shard in np.unique(of_shard):
        here = of_shard == shard
        content[here] = shards[shard].set_keys[documents[here] - first[shard]]
    packed = part.packed.copy()
    packed[places] = entries[np.lexsort((content, keys[places]))]
    return packed


def _with_company(part: _Part, first: Ints) -> list[Hashes]:
    """The entries whose key comes more than once, as the run of each shard has them."""
    ends, entries = np.zeros(len(first), np.int64), np.empty(len(part.packed), np.uint64)
    prefix = np.uint64(part.prefix) << np.uint64(64 - part.prefix_bits) if part.prefix_bits else np.uint64(0)
    _keep_company(part.packed, part.doc_bits, prefix, first, ends, entries)
    return [entries[begin:end] for begin, end in pairwise(ends)]


@njit(cache=True, nogil=True)
def _pack(entries, first, stands, n_bits, doc_bits, packed, n):  # type: ignore[no-untyped-def]
    """Add those of a run whose documents stand for themselves to the `n` that `packed` has, which has room for one more."""
    shift = np.uint64(ROW_BITS + n_bits)
    for entry in entries:
        document = np.int64(entry & _ROW) + first
        key = (entry & ~_ROW) << np.uint64(n_bits)  # its lowest bits are those of the row: free
        packed[n] = (key >> shift << np.uint64(doc_bits)) | np.uint64(document)
        n += stands[document]
    return n


@njit(cache=True, nogil=True)
def _keep_company(packed, doc_bits, prefix, first, ends, entries):  # type: ignore[no-untyped-def]
    """Those of shard s become `entries[ends[s]:ends[s + 1]]`: counted, then put there."""
    mask = (np.uint64(1) << np.uint64(doc_bits)) - np.uint64(1)
    places = np.zeros(len(ends), np.int64)
    for is_counted in (False, True):
        for at in range(len(packed)):
            key = packed[at] >> np.uint64(doc_bits)
            is_as_last = at > 0 and packed[at - 1] >> np.uint64(doc_bits) == key
            if not is_as_last and not (at + 1 < len(packed) and packed[at + 1] >> np.uint64(doc_bits) == key):
                continue
            document = np.int64(packed[at] & mask)
            shard = np.searchsorted(first, document, side="right") - 1
            if is_counted:
                entries[places[shard]] = prefix | key << np.uint64(ROW_BITS) | np.uint64(document - first[shard])
                places[shard] += 1
            else:
                ends[shard + 1] += 1
        if not is_counted:
            ends[:] = np.cumsum(ends)
            places[:] = ends


@njit(cache=True, nogil=True)
def _find_first(keys, table, found):  # type: ignore[no-untyped-def]
    """`table` (zeros, a power of two) takes the first document of each key, plus one, where the key's leading bits say."""
    n_bits = 0
    while (1 << n_bits) < len(table):
        n_bits += 1
    for document in range(len(keys)):
        if found[document] < 0:
            continue
        slot = np.int64(keys[document] >> np.uint64(64 - n_bits))
        while table[slot] and keys[table[slot] - np.uint32(1)] != keys[document]:
            slot = (slot + 1) & (len(table) - 1)
        if table[slot]:
            found[document] = table[slot] - np.uint32(1)
        else:
            table[slot] = document + 1


@njit(cache=True, nogil=True)
def _note_beginnings(entries, shift, begins):  # type: ignore[no-untyped-def]
    for entry in entries:
        begins[entry >> np.uint64(shift)] = True


@njit(cache=True, nogil=True)
def _keep_beginnings(run, shift, begins, kept):  # type: ignore[no-untyped-def]
    """What is written behind the end counts only if the end moves on, which spares a branch; so `kept` has room for one more."""
    n = np.int64(0)
    for entry in run:
        kept[n] = entry
        n += begins[entry >> np.uint64(shift)]
    return n


@njit(cache=True, nogil=True)
def _count(packed, doc_bits, max_bucket):  # type: ignore[no-untyped-def]
    n_pairs = n_crowded = n_crowds = start = 0
    for end in range(1, len(packed) + 1):
        if end < len(packed) and packed[end] >> np.uint64(doc_bits) == packed[start] >> np.uint64(doc_bits):
            continue
        size = end - start
        close = min(size, max_bucket)
        n_pairs += close * (close - 1) // 2
        if size > max_bucket:
            n_crowded += size
            n_crowds += 1
        start = end
    return n_pairs, n_crowded, n_crowds


@njit(cache=True, nogil=True)
def _fill(packed, doc_bits, max_bucket, pairs, members, ends):  # type: ignore[no-untyped-def]
    mask = (np.uint64(1) << np.uint64(doc_bits)) - np.uint64(1)
    n_pairs = n_crowded = n_crowds = start = 0
    for end in range(1, len(packed) + 1):
        if end < len(packed) and packed[end] >> np.uint64(doc_bits) == packed[start] >> np.uint64(doc_bits):
            continue
        close = min(end - start, max_bucket)
        for i in range(start, start + close):
            for j in range(i + 1, start + close):
                left, right = packed[i] & mask, packed[j] & mask
                pairs[n_pairs] = (min(left, right) << HALF) | max(left, right)
                n_pairs += 1
        if end - start > max_bucket:
            for i in range(start, end):
                members[n_crowded] = np.int64(packed[i] & mask)
                n_crowded += 1
            ends[n_crowds] = n_crowded
            n_crowds += 1
        start = end
