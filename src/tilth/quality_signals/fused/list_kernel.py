"""Compiled look-ups of words and phrases in a list."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

WORD, SPACE = 1 << 2, 1 << 3  # of `code_points`, again: compiled code freezes them, and is compiled anew if this file changes
A, Z = 0x61, 0x7A  # ASCII's small letters: runs of them are passed over in a tight loop
N_HINTS = 4096
FNV_BASIS, FNV_PRIME = np.uint64(0xCBF29CE484222325), np.uint64(0x100000001B3)
MIX = np.uint64(0x9E3779B97F4A7C15)
_HALF, _ONE = np.uint64(32), np.uint64(1)


@njit(cache=True, nogil=True)
def hash_words(data: Any, starts: Any, out: Any, hints: Any) -> None:
    """The hash (uint64) of each word of a list, whose bytes are `data[starts[i]:starts[i + 1]]`; marks `hints` (bool)."""
    for word in range(len(starts) - 1):
        start, end = starts[word], starts[word + 1]
        out[word] = _hashed(data, start, end)
        hints[_hint(data[start], data[(start + end) >> 1], data[end - 1], end - start)] = True


@njit(cache=True, nogil=True)
def count_raw_words(data: Any, offsets: Any, info: Any, documents: Any, table: Any, out: Any) -> None:
    """How many raw words of each of the `documents` are in the list, into `out` (int64, by document).

    `table` are the arrays of a PhraseTable in order; raw words are runs of WORD characters, and of what is neither
    that nor SPACE.
    """
    letters, starts, slots, hints = table[0], table[1], table[2], table[3]
    for document in documents:
        at, end = offsets[document], offsets[document + 1]
        n_found = kind = start = 0
        while at < end:
            here, width = _kind(data, at, info)
            if here != kind:
                if kind:
                    n_found += _find(data, start, at, letters, starts, slots, hints) >= 0
                kind, start = here, at
            at += width
            while at < end and A <= data[at] <= Z and kind == 1:
                at += 1
        if kind:
            n_found += _find(data, start, end, letters, starts, slots, hints) >= 0
        out[document] = n_found


@njit(cache=True, nogil=True)
def _kind(data: Any, at: int, info: Any) -> tuple[int, int]:
    """Of the character at byte `at`: 0 for a space, 1 for a word character, 2 for another; and its bytes."""
    first, width = int(data[at]), 1
    code = first
    if first >= 0xF0:
        code, width = first & 0x7, 4
    elif first >= 0xE0:
        code, width = first & 0xF, 3
    elif first >= 0xC0:
        code, width = first & 0x1F, 2
    for step in range(1, width):
        code = code << 6 | int(data[at + step]) & 0x3F
    bits = int(info[code])
    return 1 if bits & WORD else (0 if bits & SPACE else 2), width


@njit(cache=True, nogil=True)
def count_phrases(data: Any, words: Any, ends: Any, ids: Any, documents: Any, table: Any, out: Any) -> None:
    """How many runs of words of each of the `documents` are an entry of the list, into `out`; `ids` are `number_words`'."""
    letters, starts, slots, hints, keys, states, is_entry = table
    listed = np.empty(0, np.int32)
    for document in documents:
        first, n_words = ends[document], ends[document + 1] - ends[document]
        if len(listed) < n_words:
            listed = np.empty(n_words, np.int32)
        n_distinct = 0
        for word in range(first, first + n_words):
            if ids[word] == n_distinct:
                listed[n_distinct] = _find(data, words[word, 0], words[word, 1], letters, starts, slots, hints)
                n_distinct += 1
        n_found = 0
        for word in range(n_words):
            state, at = 0, word
            while at < n_words and listed[ids[first + at]] >= 0:
                state = _step(state, listed[ids[first + at]], keys, states)
                if state < 0:
                    break
                n_found += is_entry[state]
                at += 1
        out[document] = n_found


@njit(cache=True, nogil=True)
def _hashed(data: Any, start: int, end: int) -> Any:
    hashed = FNV_BASIS
    for at in range(start, end):
        hashed = (hashed ^ np.uint64(data[at])) * FNV_PRIME
    return hashed ^ hashed >> _HALF


@njit(cache=True, nogil=True)
def _find(data: Any, start: int, end: int, letters: Any, starts: Any, slots: Any, hints: Any) -> int:
    """The number of the word in the list, or -1."""
    if not hints[_hint(data[start], data[(start + end) >> 1], data[end - 1], end - start)]:
        return -1
    mask = np.uint64(len(slots) - 1)
    slot = _hashed(data, start, end) & mask
    while slots[slot] >= 0:
        found = slots[slot]
        other = starts[found]
        if starts[found + 1] - other == end - start:
            step = 0
            while start + step < end and data[start + step] == letters[other + step]:
                step += 1
            if start + step == end:
                return found
        slot = (slot + _ONE) & mask
    return -1


@njit(cache=True, nogil=True)
def _hint(first: int, middle: int, last: int, n_bytes: int) -> int:
    """A small number that most words which are not in the list share with none that is."""
    return (first + 31 * int(middle) + 61 * int(last) + 127 * n_bytes) & (N_HINTS - 1)


@njit(cache=True, nogil=True)
def _step(state: int, word: int, keys: Any, states: Any) -> int:
    """The state after `word`, or -1 where no entry goes on with it."""
    key = np.uint64(state) << _HALF | np.uint64(word)
    mask = np.uint64(len(keys) - 1)
    slot = (key * MIX >> _HALF) & mask
    while states[slot] >= 0:
        if keys[slot] == key:
            return states[slot]
        slot = (slot + _ONE) & mask
    return -1
