"""Compiled loops over word numbers: the characters in the most frequent n-gram and in repeated n-grams, exactly."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

FIRST_DUPE, LAST_SIZE = 5, 10
_MIX = np.uint64(0x9E3779B97F4A7C15)
_HALF = np.uint64(32)
_FIRST_SLOTS = 1 << 16  # tables start no larger, and grow
_MANY, _SAMPLE = 1 << 22, 1 << 20  # places from which on the table's size matters, and how many of them are tried


@njit(cache=True, nogil=True)
def repeated_chars(ids: Any, ends: Any, counts: Any, lengths: Any, out: Any) -> None:
    """Fill `out` (int64, documents x 9) with characters: of the top n-gram for n = 2, 3, 4, of repeated ones for n = 5 to 10.

    The arguments are those of `index_words`. An occurrence of the top n-gram counts each time, a character in
    overlapping repeated n-grams once; of equally frequent n-grams the one that is seen first is the top.
    """
    most = 1
    for document in range(len(out)):
        most = max(most, ends[0, document + 1] - ends[0, document])
    places, classes, tallies = np.empty(most, np.int32), np.empty(most, np.int32), np.empty(most, np.int32)
    keys, slots = np.empty(most, np.uint64), np.empty(16, np.int32)
    for document in range(len(out)):
        words = ids[ends[0, document] : ends[0, document + 1]]
        first, last = ends[1, document], ends[1, document + 1]
        found = places, classes, tallies, keys
        slots = _repeated_chars(words, counts[first:last], lengths[first:last], found, slots, out[document])


@njit(cache=True, nogil=True)
def _repeated_chars(ids: Any, counts: Any, lengths: Any, found: Any, slots: Any, out: Any) -> Any:
    """An n-gram repeats only where the shorter ones at its position and at the next do, so each size looks at fewer places.

    Returns the slots, which may have grown.
    """
    out[:] = 0
    places, classes, tallies, keys = found
    n_places = 0
    for place in range(len(ids)):
        if counts[ids[place]] >= 2:
            places[n_places], classes[n_places] = place, ids[place]
            n_places += 1
    for size in range(2, LAST_SIZE + 1):
        n_places, n_classes, slots = _join(places, classes, tallies, n_places, keys, slots)
        n_places = _keep_repeated(places, classes, tallies, keys, n_places, n_classes)
        if n_places == 0:
            break
        if size < FIRST_DUPE:
            out[size - 2] = _top_chars(places, classes, tallies, n_places, size, ids, lengths)
        else:
            out[size - 2] = _covered_chars(places, n_places, size, ids, lengths)
    return slots


@njit(cache=True, nogil=True)
def _join(places: Any, classes: Any, tallies: Any, n_places: int, keys: Any, slots: Any) -> Any:
    """From n-grams to the n+1-grams at the same places: a pair of neighbouring classes names one exactly.

    Overwrites `places` and `classes`, counts each class in `tallies`, and gives `keys` its pair; returns the numbers of
    places and of classes, and the slots.
    """
    n_slots = 16
    while n_slots < 2 * n_places and n_slots < _FIRST_SLOTS:
        n_slots *= 2
    slots = _cleared(slots, n_slots)
    traces = _traces(places, classes, n_places) if _is_varied(places, classes, n_places) else np.empty(0, np.uint8)
    n_kept = n_classes = 0
    for index in range(n_places - 1):
        if places[index + 1] != places[index] + 1:
            continue
        key = np.uint64(classes[index]) << _HALF | np.uint64(classes[index + 1])
        if len(traces) and not _is_repeated(traces, key):
            continue
        slot = np.int64(key * _MIX >> _HALF) & (n_slots - 1)
        while slots[slot] >= 0 and keys[slots[slot]] != key:
            slot = (slot + 1) & (n_slots - 1)
        found = slots[slot]
        if found < 0:
            found = n_classes
            slots[slot], keys[found], tallies[found] = found, key, 0
            n_classes += 1
        tallies[found] += 1
        places[n_kept], classes[n_kept] = places[index], found
        n_kept += 1
        if 5 * n_classes > 4 * n_slots:
            n_slots *= 2
            slots = _cleared(slots, n_slots)
            for number in range(n_classes):
                slot = np.int64(keys[number] * _MIX >> _HALF) & (n_slots - 1)
                while slots[slot] >= 0:
                    slot = (slot + 1) & (n_slots - 1)
                slots[slot] = number
    return n_kept, n_classes, slots


@njit(cache=True, nogil=True)
def _is_varied(places: Any, classes: Any, n_places: int) -> bool:
    """Are there so many pairs, and so many different ones, that those which occur once are better passed over?"""
    if n_places < _MANY:
        return False
    bits = np.zeros(_SAMPLE, np.uint8)
    n_pairs = n_seen = 0
    for index in range(_SAMPLE):
        if places[index + 1] == places[index] + 1:
            counter, _ = _counters(np.uint64(classes[index]) << _HALF | np.uint64(classes[index + 1]), 8 * _SAMPLE)
            n_pairs += 1
            n_seen += bits[counter >> 3] >> (counter & 7) & 1
            bits[counter >> 3] |= 1 << (counter & 7)
    return 2 * n_seen < n_pairs


@njit(cache=True, nogil=True)
def _traces(places: Any, classes: Any, n_places: int) -> Any:
    """A counting Bloom filter of the pairs, so that most that occur once take no room in the table: two counters for each of
    up to 3, four to a byte (Fan et al. 2000).
    """
    n_counters = 64
    while n_counters < 4 * n_places:
        n_counters *= 2
    traces = np.zeros(n_counters // 4, np.uint8)
    for index in range(n_places - 1):
        if places[index + 1] == places[index] + 1:
            first, second = _counters(np.uint64(classes[index]) << _HALF | np.uint64(classes[index + 1]), n_counters)
            for counter in (first, second):
                shift = 2 * (counter & 3)
                if traces[counter >> 2] >> shift & 3 < 2:
                    traces[counter >> 2] += 1 << shift
    return traces


@njit(cache=True, nogil=True)
def _is_repeated(traces: Any, key: Any) -> bool:
    """False only for a pair that occurs once."""
    first, second = _counters(key, 4 * len(traces))
    return traces[first >> 2] >> 2 * (first & 3) & 3 >= 2 and traces[second >> 2] >> 2 * (second & 3) & 3 >= 2


@njit(cache=True, nogil=True)
def _counters(key: Any, n_counters: int) -> Any:
    key = (key ^ key >> _HALF) * _MIX
    key = (key ^ key >> _HALF) * _MIX
    mask = np.uint64(n_counters - 1)
    return np.int64(key >> _HALF & mask), np.int64((key ^ key >> _HALF) & mask)


@njit(cache=True, nogil=True)
def _cleared(slots: Any, n_slots: int) -> Any:
    if len(slots) < n_slots:
        slots = np.empty(n_slots, np.int32)
    slots[:n_slots] = -1
    return slots


@njit(cache=True, nogil=True)
def _keep_repeated(places: Any, classes: Any, tallies: Any, keys: Any, n_places: int, n_classes: int) -> int:
    """Drop the n-grams that occur once; classes stay numbered in the order of their first occurrence.

    `keys` are done with, and take the classes' new numbers.
    """
    n_repeated = 0
    for index in range(n_classes):
        keys[index] = n_repeated
        if tallies[index] >= 2:
            tallies[n_repeated] = tallies[index]
            n_repeated += 1
        else:
            keys[index] = n_classes
    n_kept = 0
    for index in range(n_places):
        renamed = np.int64(keys[classes[index]])
        if renamed < n_classes:
            places[n_kept], classes[n_kept] = places[index], renamed
            n_kept += 1
    return n_kept


@njit(cache=True, nogil=True)
def _top_chars(places: Any, classes: Any, tallies: Any, n_places: int, size: int, ids: Any, lengths: Any) -> int:
    best = first = 0
    for index in range(n_places):
        if tallies[classes[index]] > best:
            best, first = tallies[classes[index]], places[index]
    n_chars = 0
    for place in range(first, first + size):
        n_chars += lengths[ids[place]]
    return n_chars * best


@njit(cache=True, nogil=True)
def _covered_chars(places: Any, n_places: int, size: int, ids: Any, lengths: Any) -> int:
    n_chars = covered_to = 0
    for index in range(n_places):
        start = places[index]
        for place in range(max(start, covered_to), start + size):
            n_chars += lengths[ids[place]]
        covered_to = start + size
    return n_chars
