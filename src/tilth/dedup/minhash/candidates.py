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

from tilth.dedup.minhash.signatures import ROW_BITS, SignedShard
from tilth.dedup.texts.mixing import Hashes
from tilth.dedup.texts.tokens import Ints
from tilth.errors import ContractError

Codes = npt.NDArray[np.uint64]  # a pair of documents: the smaller number in the upper half, the larger in the lower
Known = Callable[[int, int], Hashes | None]
HALF = np.uint64(32)
MAX_DOCUMENTS = 1 << 32
PART_ENTRIES = 1 << 22  # of a band that are sorted at once
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
    """The number of each shard's first document, and of all. Raises ContractError for more than 2^32 documents."""
    first = np.concatenate(([0], np.cumsum([shard.n_rows() for shard in shards]))).astype(np.int64)
    if first[-1] > MAX_DOCUMENTS:
        raise ContractError(f"{first[-1]} documents in one search, at most {MAX_DOCUMENTS}", fix="Search languages apart.")
    return first


def representatives(shards: Sequence[SignedShard], removed: npt.NDArray[np.bool_] | None = None) -> Ints:
    """For each document the first one with the same shingles; -1 where there is nothing to compare or it is `removed`.

    Memory: 32 bytes a document.
    """
    keys = np.concatenate([np.zeros(0, np.uint64), *(shard.set_keys for shard in shards)])
    nothing = np.concatenate([np.zeros(0, np.bool_), *(shard.sizes == 0 for shard in shards)])
    if removed is not None:
        nothing |= removed
    found = np.arange(len(keys), dtype=np.int64)
    found[nothing] = -1
    present = np.flatnonzero(~nothing)
    order = present[np.argsort(keys[present], kind="stable")]
    _first_of_equals(keys, order, found)
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

    Memory: a byte a document, PART_ENTRIES entries, and what is returned.
    """
    first = first_documents(shards)
    stands = standing == np.arange(len(standing), dtype=np.int64)
    all_runs = [shard.bands for shard in shards]
    pairs, members, ends = np.zeros(0, np.uint64), [np.zeros(0, np.int64)], [np.zeros(1, np.int64)]
    company: list[Hashes] = []
    for at, band in enumerate(bands):
        runs = [run[band] for run in all_runs]
        if known is not None:
            runs = _without_the_lonely(runs, [known(at, shard) for shard in range(len(shards))])
        found: list[list[Hashes]] = [[] for _ in shards]
        for part in _parts(runs, first, stands):
            n_pairs, n_crowded, n_crowds = _count(part.packed, part.doc_bits, max_bucket)
            new, crowded = np.empty(n_pairs, np.uint64), np.empty(n_crowded, np.int64)
            crowd_ends = np.empty(n_crowds, np.int64)
            packed = _crowds_by_content(part, max_bucket, shards, first) if n_crowds else part.packed
            _fill(packed, part.doc_bits, max_bucket, new, crowded, crowd_ends)
            pairs = _merged(pairs, new)
            ends.append(crowd_ends + sum(map(len, members)))
            members.append(crowded)
            for shard, entries in enumerate(_with_company(part, first) if keeps_company else ()):
                found[shard].append(entries)
        company.extend(np.concatenate([np.zeros(0, np.uint64), *entries]) for entries in found)
    held = Company(np.concatenate([np.zeros(0, np.uint64), *company]), np.cumsum([0, *map(len, company)]))
    return Candidates(pairs, np.concatenate(members), np.concatenate(ends)), held if keeps_company else None


def all_candidates(parts: Sequence[Candidates]) -> Candidates:
    """What several groups of bands propose together."""
    pairs = np.zeros(0, np.uint64)
    for part in parts:
        pairs = _merged(pairs, part.pairs)
    shifts = np.cumsum([0, *(len(part.members) for part in parts)])
    members = np.concatenate([np.zeros(0, np.int64), *(part.members for part in parts)])
    ends = np.concatenate([np.zeros(1, np.int64), *(part.ends[1:] + shift for part, shift in zip(parts, shifts, strict=False))])
    return Candidates(pairs, members, ends)


def _merged(known: Codes, new: Codes) -> Codes:
    both = np.concatenate([known, np.sort(new)])
    both.sort(kind="stable")
    kept = np.ones(len(both), np.bool_)
    np.not_equal(both[1:], both[:-1], out=kept[1:])
    return both[kept]


def _without_the_lonely(runs: Sequence[Hashes], known: Sequence[Hashes | None]) -> list[Hashes]:
    """Of old runs only those entries that had company, and those that share a key with one of the new."""
    new = [run >> np.uint64(ROW_BITS) for run, old in zip(runs, known, strict=True) if old is None]
    keys = np.concatenate([np.zeros(0, np.uint64), *new])
    keys.sort(kind="stable")
    return [run if old is None else _entries_of(run, keys, old) for run, old in zip(runs, known, strict=True)]


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
        packed = []
        for run, shard_first in zip(runs, first, strict=False):
            begin, end = np.searchsorted(run, lowest), np.searchsorted(run, highest, side="right")
            entries = np.array(run[begin:end])
            documents = (entries & _ROW) + np.uint64(shard_first)
            kept = stands[documents]
            keys = (entries[kept] & ~_ROW) << np.uint64(n_bits)  # its lowest bits are those of the row: free
            packed.append((keys >> np.uint64(ROW_BITS + n_bits) << np.uint64(doc_bits)) | documents[kept])
        joined = np.concatenate([np.zeros(0, np.uint64), *packed])
        joined.sort(kind="stable")  # which merges runs that are sorted already
        yield _Part(joined, doc_bits, part, n_bits)


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
    keys = part.packed >> np.uint64(part.doc_bits)
    as_next = np.concatenate([keys[1:] == keys[:-1], np.zeros(min(1, len(keys)), np.bool_)])
    kept = as_next | np.concatenate([np.zeros(min(1, len(keys)), np.bool_), as_next[:-1]])
    documents = (part.packed[kept] & np.uint64((1 << part.doc_bits) - 1)).astype(np.int64)
    whole = keys[kept] | np.uint64(part.prefix) << np.uint64(64 - ROW_BITS - part.prefix_bits)
    shards = (np.searchsorted(first, documents, side="right") - 1).astype(np.min_scalar_type(len(first)))
    order = np.argsort(shards, kind="stable")
    entries = (whole << np.uint64(ROW_BITS) | (documents - first[shards]).astype(np.uint64))[order]
    cuts = np.searchsorted(shards[order], np.arange(len(first)))
    return [entries[begin:end] for begin, end in pairwise(cuts)]


def _entries_of(run: Hashes, keys: Hashes, entries: Hashes) -> Hashes:
    """The entries of a run that have one of `keys` (ascending), and those that are among `entries` (ascending, of this run)."""
    kept = np.zeros(len(run), np.bool_)
    _mark_entries_of(run, keys, entries, kept)
    return run[kept]


@njit(cache=True, nogil=True)
def _first_of_equals(keys, order, found):  # type: ignore[no-untyped-def]
    for place in range(1, len(order)):
        if keys[order[place]] == keys[order[place - 1]]:
            found[order[place]] = found[order[place - 1]]


@njit(cache=True, nogil=True)
def _mark_entries_of(run, keys, entries, kept):  # type: ignore[no-untyped-def]
    key_at = entry_at = 0
    for place in range(len(run)):
        key = run[place] >> np.uint64(ROW_BITS)
        while key_at < len(keys) and keys[key_at] < key:
            key_at += 1
        is_entry = entry_at < len(entries) and entries[entry_at] == run[place]
        entry_at += is_entry
        kept[place] = is_entry or (key_at < len(keys) and keys[key_at] == key)


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
