"""Shingles: the sets of hashed sequences of n tokens whose Jaccard similarity decides what is a near-duplicate.

A text with fewer tokens than n has one shingle, the whole sequence, and thus equals only texts with the same tokens; a
text without tokens has none. A shingle of nucleotides is the same on either strand of DNA, so that a sequence equals its
reverse complement (what Mash calls canonical k-mers; Ondov et al. 2016).
"""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numba import njit

from tilth.dedup.minhash.parameters import Unit
from tilth.dedup.texts.mixing import MIXER, MULTIPLIER, STEP, Hashes, mix
from tilth.dedup.texts.tokens import Ints, folded_texts, hash_tokens

FREE = np.uint64(0)
CODES, PAIRED = "acgturyswkmbdhvn", "tgcaayrswmkvhdbn"
BATCH_BYTES = 1 << 20  # of texts whose shingles are made together: they take up to eight times as much


class Shingles(NamedTuple):
    """Hashes of shingles, 64 bits each: those of text i are `values[ends[i]:ends[i + 1]]`."""

    values: Hashes
    ends: Ints

    def __len__(self) -> int:
        return len(self.ends) - 1


def shingle(texts: pa.Array, n: int, unit: Unit = "words") -> Shingles:
    """The shingles of `texts` (string or large_string; a null counts as empty) as they come, repeated ones repeatedly."""
    data, folded = folded_texts(texts)
    hashes, token_ends = hash_tokens(data, folded, unit)
    lengths = np.diff(token_ends)
    counts = np.maximum(lengths - n + 1, np.minimum(lengths, 1))
    ends = np.concatenate(([0], np.cumsum(counts)))
    values = np.empty(ends[-1], np.uint64)
    _shingle(hashes, token_ends, n, values)
    if unit == "nucleotides":
        other = np.empty_like(values)
        # All texts read backwards: each k-mer then comes at the mirrored place.
        _shingle(_paired(hashes)[::-1], token_ends[-1] - token_ends[::-1], n, other)
        values += other[::-1]  # as random as either, and the same for both strands
    return Shingles(values, ends)


def _paired(hashes: Hashes) -> Hashes:
    """For the hash of each nucleotide that of the one that pairs with it; other characters pair with themselves."""
    known, other = _nucleotide_hashes()
    places = np.minimum(np.searchsorted(known, hashes), len(known) - 1)
    return np.where(known[places] == hashes, other[places], hashes)


@cache
def _nucleotide_hashes() -> tuple[Hashes, Hashes]:
    """The hashes of the codes of nucleotides, ascending, and of what pairs with each (U, like T, with A)."""
    found, pairs = (hash_tokens(*folded_texts(pa.array([letters])), "characters")[0] for letters in (CODES, PAIRED))
    order = np.argsort(found)
    return found[order], pairs[order]


def distinct_sets(found: Shingles) -> Shingles:
    """The same without repetitions, ascending in each text: sets that can be compared."""
    values, ends = np.empty(len(found.values) + 1, np.uint64), np.zeros_like(found.ends)
    _distinct(found.values, found.ends, values, ends)
    return Shingles(values[: ends[-1]], ends)


def set_keys(found: Shingles) -> Hashes:
    """A key for the shingles of each text that says nothing of their order: texts of equal keys have equal shingles."""
    out = np.empty(len(found), np.uint64)
    _set_keys(found.values, found.ends, out)
    return out


def in_batches(texts: pa.Array) -> list[pa.Array]:
    """`texts` in slices of about BATCH_BYTES."""
    offsets = np.frombuffer(texts.cast(pa.large_string()).buffers()[1] or b"\0" * 8, np.int64)[texts.offset :]
    starts = offsets[: len(texts)] // BATCH_BYTES
    cuts = [0, *(np.flatnonzero(np.diff(starts)) + 1).tolist(), len(texts)]
    return [texts.slice(first, last - first) for first, last in pairwise(cuts) if last > first]


@njit(cache=True, nogil=True)
def _shingle(hashes, token_ends, n, values):  # type: ignore[no-untyped-def]
    """A polynomial in the multiplier over the hashes of n tokens, rolled along each text, and its bits spread."""
    top = np.uint64(1)  # the multiplier to the power of n: what the token that leaves a shingle weighs
    for _ in range(n):
        top *= MULTIPLIER
    at = 0
    for text in range(len(token_ends) - 1):
        first, last = token_ends[text], token_ends[text + 1]
        width = min(n, last - first)
        # The width is part of the hash: a whole short text never equals a part of a long one.
        salt = np.uint64(width) * STEP
        state = np.uint64(0)
        for token in range(first, first + width - 1):
            state = state * MULTIPLIER + hashes[token]
        if width == n:
            for token in range(first + width - 1, last):
                state = state * MULTIPLIER + hashes[token]
                if token >= first + n:
                    state -= hashes[token - n] * top
                values[at] = mix((state ^ (state >> np.uint64(32))) * MIXER + salt)
                at += 1
        elif width:
            state = state * MULTIPLIER + hashes[last - 1]
            values[at] = mix((state ^ (state >> np.uint64(32))) * MIXER + salt)
            at += 1


@njit(cache=True, nogil=True)
def _set_keys(values, ends, out):  # type: ignore[no-untyped-def]
    for text in range(len(out)):
        total = np.uint64(ends[text + 1] - ends[text])
        for place in range(ends[text], ends[text + 1]):
            total += mix(values[place] + STEP)
        out[text] = mix(total)


@njit(cache=True, nogil=True)
def _distinct(found, found_ends, values, ends):  # type: ignore[no-untyped-def]
    """Through a table by leading bits, in which values lie in order but for neighbours; the few that do not are moved then.

    A zero in the table is a free slot; that there is a value of zero is only noted. What is written where `values` ends so far
    counts only if it ends behind it then, which spares a branch that nothing could foresee: it has room for one more.
    """
    table = np.zeros(1024, np.uint64)
    at = np.int64(0)
    for text in range(len(ends) - 1):
        n_values = found_ends[text + 1] - found_ends[text]
        bits = 4
        while (1 << bits) < 2 * n_values:
            bits += 1
        if len(table) < (1 << bits) + n_values:
            table = np.zeros((1 << bits) + n_values, np.uint64)
        shift, end, has_zero = np.uint64(64 - bits), np.uint64(0), False
        for place in range(found_ends[text], found_ends[text + 1]):
            value = found[place]
            slot = value >> shift
            while table[slot] != FREE and table[slot] != value:
                slot += np.uint64(1)
            table[slot] = value
            has_zero |= value == FREE
            end = max(end, slot + np.uint64(1))
        start = at
        values[at] = FREE
        at += has_zero
        for spot in range(end):
            values[at] = table[spot]
            at += table[spot] != FREE
            table[spot] = FREE
        for place in range(start + 1, at):
            _sink(values, start, place)
        ends[text + 1] = at


@njit(cache=True, nogil=True, inline="always")
def _sink(values, start, place):  # type: ignore[no-untyped-def]
    """Put `values[place]` among the ascending `values[start:place]`."""
    value = values[place]
    while place > start and values[place - 1] > value:
        values[place] = values[place - 1]
        place -= 1
    values[place] = value
