"""Compiled loops over word numbers: the characters in the most frequent n-gram and in repeated n-grams, exactly."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

TOP_SIZES, DUPE_SIZES = (2, 3, 4), (5, 6, 7, 8, 9, 10)
FIRST_DUPE, LAST_SIZE = 5, 10
_MIX = np.uint64(0x9E3779B97F4A7C15)
_HALF = np.uint64(32)


@njit(cache=True, nogil=True)
def repeated_chars(ids: Any, counts: Any, lengths: Any, ends: Any, out: Any) -> None:
    """Fill `out` (int64, documents x 9) with characters: of the top n-gram for n = 2, 3, 4, of repeated ones for n = 5 to 10.

    `ids`, `counts` and `ends` are those of `number_words`. An occurrence of the top n-gram counts each time, a character
    in overlapping repeated n-grams once; of equally frequent n-grams the one that is seen first is the top.
    """
    most = 1
    for document in range(len(ends) - 1):
        most = max(most, ends[document + 1] - ends[document])
    size = _table_size(most)
    scratch = np.empty((4, most), np.int32)
    keys, slots = np.empty(size, np.uint64), np.empty(size, np.int32)
    for document in range(len(ends) - 1):
        first, last = ends[document], ends[document + 1]
        _repeated_chars(ids[first:last], counts[first:last], lengths[first:last], scratch, keys, slots, out[document])


@njit(cache=True, nogil=True)
def _repeated_chars(ids: Any, counts: Any, lengths: Any, scratch: Any, keys: Any, slots: Any, out: Any) -> None:
    """An n-gram repeats only where the shorter ones at its position and at the next do, so each size looks at fewer places."""
    out[:] = 0
    places, classes, tallies = scratch[0], scratch[1], scratch[2]
    n_places = 0
    for place in range(len(ids)):
        if counts[ids[place]] >= 2:
            places[n_places], classes[n_places] = place, ids[place]
            n_places += 1
    for size in range(2, LAST_SIZE + 1):
        n_places, n_classes = _join(places, classes, tallies, n_places, keys, slots)
        n_places = _keep_repeated(places, classes, tallies, scratch[3], n_places, n_classes)
        if n_places == 0:
            return
        if size < FIRST_DUPE:
            out[size - 2] = _top_chars(places, classes, tallies, n_places, size, lengths)
        else:
            out[size - 2] = _covered_chars(places, n_places, size, lengths)


@njit(cache=True, nogil=True)
def _table_size(n_items: int) -> int:
    size = 16
    while size < 2 * n_items:
        size *= 2
    return size


@njit(cache=True, nogil=True)
def _join(places: Any, classes: Any, tallies: Any, n_places: int, keys: Any, slots: Any) -> tuple[int, int]:
    """From n-grams to the n+1-grams at the same places: a pair of neighbouring classes names one exactly.

    Overwrites `places` and `classes`, counts each class in `tallies`; returns the numbers of places and of classes.
    """
    size = _table_size(n_places)
    slots[:size] = -1
    mask = np.uint64(size - 1)
    n_kept = n_classes = 0
    for index in range(n_places - 1):
        if places[index + 1] != places[index] + 1:
            continue
        key = np.uint64(classes[index]) << _HALF | np.uint64(classes[index + 1])
        slot = (key * _MIX >> _HALF) & mask
        while slots[slot] >= 0 and keys[slot] != key:
            slot = (slot + np.uint64(1)) & mask
        if slots[slot] < 0:
            slots[slot], keys[slot] = n_classes, key
            tallies[n_classes] = 0
            n_classes += 1
        found = slots[slot]
        tallies[found] += 1
        places[n_kept], classes[n_kept] = places[index], found
        n_kept += 1
    return n_kept, n_classes


@njit(cache=True, nogil=True)
def _keep_repeated(places: Any, classes: Any, tallies: Any, renamed: Any, n_places: int, n_classes: int) -> int:
    """Drop the n-grams that occur once; classes stay numbered in the order of their first occurrence."""
    n_repeated = 0
    for index in range(n_classes):
        renamed[index] = -1
        if tallies[index] >= 2:
            renamed[index] = n_repeated
            tallies[n_repeated] = tallies[index]
            n_repeated += 1
    n_kept = 0
    for index in range(n_places):
        if renamed[classes[index]] >= 0:
            places[n_kept], classes[n_kept] = places[index], renamed[classes[index]]
            n_kept += 1
    return n_kept


@njit(cache=True, nogil=True)
def _top_chars(places: Any, classes: Any, tallies: Any, n_places: int, size: int, lengths: Any) -> int:
    best = first = 0
    for index in range(n_places):
        if tallies[classes[index]] > best:
            best, first = tallies[classes[index]], places[index]
    n_chars = 0
    for place in range(first, first + size):
        n_chars += lengths[place]
    return n_chars * best


@njit(cache=True, nogil=True)
def _covered_chars(places: Any, n_places: int, size: int, lengths: Any) -> int:
    n_chars = covered_to = 0
    for index in range(n_places):
        start = places[index]
        for place in range(max(start, covered_to), start + size):
            n_chars += lengths[place]
        covered_to = start + size
    return n_chars
