"""Sorts words whose leading bits are spread evenly, as those of hashes are: into buckets by these bits, then each by itself.

Several times as fast as NumPy's sort there; right, and no slower by more than a pass, wherever many words begin alike.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

Words = npt.NDArray[np.uint64]
_FEW = 64  # in a bucket: as many are put in order one by one


def ascending(words: Words, width: int = 64) -> Words:
    """A sorted copy of `words`, all of them below 2^width. Memory: a byte a word beside it."""
    found = np.empty(len(words), np.uint64)
    n_bits = min(width, max(0, (len(words) // 8).bit_length()))
    full = np.empty((len(words) // _FEW, 2), np.int64)
    for start, end in full[: _sort(words, width - n_bits, n_bits, found, full)]:
        found[start:end].sort(kind="stable")  # mostly one key, whose rows come in their order
    return found


@njit(cache=True, nogil=True)
def _sort(words, shift, n_bits, found, full):  # type: ignore[no-untyped-def]
    """Sorts the buckets of few words; returns how many others there are, whose bounds `full` takes."""
    ends = np.zeros((1 << n_bits) + 1, np.int64)
    for word in words:
        ends[_bucket(word, shift) + 1] += 1
    for bucket in range(1 << n_bits):
        ends[bucket + 1] += ends[bucket]
    for word in words:
        bucket = _bucket(word, shift)
        found[ends[bucket]] = word
        ends[bucket] += 1
    start = n_full = 0
    for end in ends[:-1]:
        if end - start > _FEW:
            full[n_full, 0], full[n_full, 1] = start, end
            n_full += 1
            start = end
        for place in range(start + 1, end):
            word = found[place]
            while place > start and found[place - 1] > word:
                found[place] = found[place - 1]
                place -= 1
            found[place] = word
        start = end
    return n_full


@njit(cache=True, nogil=True, inline="always")
def _bucket(word: Any, shift: Any) -> Any:
    return np.int64(word >> np.uint64(shift)) if shift < 64 else np.int64(0)
