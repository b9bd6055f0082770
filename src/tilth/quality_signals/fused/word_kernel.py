"""Compiled loops over normal forms: words, their numbers by first occurrence, entropy, and words and digits of lines."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit

NUMERIC = 1 << 6  # of `code_points`, again: compiled code freezes it, and is only compiled again when this very file changes
# Columns of `count_words`.
N_WORDS, N_DISTINCT, N_WORD_CHARS, N_LOREM_IPSUM = range(4)
# Columns of the lines' counts.
LINE_WORDS, LINE_CHARS, LINE_NUMERIC, LINE_JAVASCRIPT = range(4)
LOREM = np.frombuffer(b"lorem", np.uint8)
IPSUM = np.frombuffer(b"ipsum", np.uint8)
JAVASCRIPT = np.frombuffer(b"javascript", np.uint8)
FNV_BASIS, FNV_PRIME = np.uint64(0xCBF29CE484222325), np.uint64(0x100000001B3)


@njit(cache=True, nogil=True)
def split_words(data: Any, spans: Any, firsts: Any, info: Any, words: Any, lengths: Any, ends: Any, lines: Any) -> None:
    """Cut normal forms at spaces and line feeds.

    `words` (int64, words x 2) takes the bytes' start and end of each word, `lengths` (int32) its code points, `ends` (int64,
    documents + 1) the number of words before each document's first, and `lines` (int32, 4 x lines) the counts named above.
    """
    n_words = 0
    for document in range(len(spans)):
        ends[document] = n_words
        n_words = _split_words(
            data, spans[document], firsts[document], firsts[document + 1], info, words, lengths, n_words, lines
        )
    ends[len(spans)] = n_words


@njit(cache=True, nogil=True)
def _split_words(
    data: Any, span: Any, line: int, last_line: int, info: Any, words: Any, lengths: Any, n_words: int, lines: Any
) -> int:
    at, end = span[0], span[1]
    while line < last_line:
        first, n_letters, n_numeric, n_javascript = n_words, 0, 0, 0
        while at < end and data[at] != 0x0A:
            if data[at] == 0x20:
                at += 1
            start = at
            n_chars = 0
            while at < end and data[at] != 0x20 and data[at] != 0x0A:
                byte = data[at]
                at += 1
                if byte < 0x80:
                    n_chars += 1
                    n_numeric += 0x30 <= byte <= 0x39
                elif byte >= 0xC0:
                    n_chars += 1
                    n_numeric += (info[_wide(data, at - 1)] & NUMERIC) != 0
            words[n_words, 0], words[n_words, 1] = start, at
            lengths[n_words] = n_chars
            n_letters += n_chars
            n_words += 1
            if at - start == 10 and data[start] == 0x6A:
                n_javascript += _equal(data, start, JAVASCRIPT)
        at += 1
        n_here = n_words - first
        lines[LINE_WORDS, line] = n_here
        lines[LINE_CHARS, line] = n_letters + max(n_here - 1, 0)
        lines[LINE_NUMERIC, line] = n_numeric
        lines[LINE_JAVASCRIPT, line] = n_javascript
        line += 1
    return n_words


@njit(cache=True, nogil=True)
def _wide(data: Any, at: int) -> int:
    """The code point beyond ASCII at byte `at`."""
    first = int(data[at])
    if first < 0xE0:
        return (first & 0x1F) << 6 | int(data[at + 1]) & 0x3F
    if first < 0xF0:
        return (first & 0xF) << 12 | (int(data[at + 1]) & 0x3F) << 6 | int(data[at + 2]) & 0x3F
    high = (first & 0x7) << 18 | (int(data[at + 1]) & 0x3F) << 12
    return high | (int(data[at + 2]) & 0x3F) << 6 | int(data[at + 3]) & 0x3F


@njit(cache=True, nogil=True)
def _equal(data: Any, start: int, wanted: Any) -> bool:
    for step in range(len(wanted)):  # noqa: SIM110 - compiled, all() is no shorter
        if data[start + step] != wanted[step]:
            return False
    return True


@njit(cache=True, nogil=True)
def number_words(data: Any, words: Any, lengths: Any, ends: Any, ids: Any, counts: Any, out: Any, entropies: Any) -> None:
    """Number the words of each document by first occurrence.

    `ids` (int32) takes each word's number, `counts` (int32) at a document's first word and after how often each number
    occurs, `out` (int64, documents x 4) the counts named above, `entropies` (float64) Shannon's entropy in nats.
    """
    slots = np.empty(0, np.int32)
    examples = np.empty(0, np.int64)
    for document in range(len(ends) - 1):
        first, last = ends[document], ends[document + 1]
        n_words = last - first
        size = 16
        while size < 2 * n_words:
            size *= 2
        if size > len(slots):
            slots = np.empty(size, np.int32)
            examples = np.empty(size, np.int64)
        n_distinct = _number_words(data, words, first, last, ids, counts[first:last], slots[:size], examples)
        n_chars = 0
        for word in range(first, last):
            n_chars += lengths[word]
        out[document, N_WORDS], out[document, N_DISTINCT] = n_words, n_distinct
        out[document, N_WORD_CHARS] = n_chars
        out[document, N_LOREM_IPSUM] = _count_lorem_ipsum(data, words, first, last)
        entropies[document] = _entropy(counts[first : first + n_distinct], n_words)


@njit(cache=True, nogil=True)
def _number_words(data: Any, words: Any, first: int, last: int, ids: Any, counts: Any, slots: Any, examples: Any) -> int:
    """Equal numbers mean equal bytes: a slot found by hash is always compared."""
    slots[:] = -1
    mask = np.uint64(len(slots) - 1)
    n_distinct = 0
    for word in range(first, last):
        start, end = words[word, 0], words[word, 1]
        hashed = FNV_BASIS
        for at in range(start, end):
            hashed = (hashed ^ np.uint64(data[at])) * FNV_PRIME
        slot = (hashed ^ hashed >> np.uint64(32)) & mask
        while True:
            found = slots[slot]
            if found < 0:
                slots[slot] = found = n_distinct
                examples[found] = word
                counts[found] = 0
                n_distinct += 1
                break
            other = words[examples[found], 0]
            if words[examples[found], 1] - other == end - start:
                step = 0
                while start + step < end and data[start + step] == data[other + step]:
                    step += 1
                if start + step == end:
                    break
            slot = (slot + np.uint64(1)) & mask
        ids[word] = found
        counts[found] += 1
    return n_distinct


@njit(cache=True, nogil=True)
def _count_lorem_ipsum(data: Any, words: Any, first: int, last: int) -> int:
    """Pairs of words of which one ends in `lorem` and the next one starts with `ipsum`."""
    n_found = n_folded = 0
    for word in range(first + 1, last):
        start, end = words[word, 0], words[word, 1]
        before = words[word - 1, 1]
        if end - start < 5 or before - words[word - 1, 0] < 5 or not _equal(data, before - 5, LOREM):
            continue
        if _equal(data, start, IPSUM):
            n_found += 1
        else:
            n_folded += _folds_to_ipsum(data, start, end)
    # The published code counts without regard to case, but only where the plain words occur too.
    return n_found + n_folded if n_found else 0


@njit(cache=True, nogil=True)
def _folds_to_ipsum(data: Any, start: int, end: int) -> bool:
    """`ipsum` with a dotless i (C4 B1) or a long s (C5 BF), which `re` takes for i and s."""
    at = start
    for letter in IPSUM:
        wide = (letter == 0x69 and at + 1 < end and data[at] == 0xC4 and data[at + 1] == 0xB1) or (
            letter == 0x73 and at + 1 < end and data[at] == 0xC5 and data[at + 1] == 0xBF
        )
        if not wide and (at >= end or data[at] != letter):
            return False
        at += 2 if wide else 1
    return True


@njit(cache=True, nogil=True)
def _entropy(counts: Any, total: int) -> float:
    """Terms in the order of first occurrence, as the published code adds them."""
    entropy = 0.0
    last_count, term = 0, 0.0
    for count in counts:
        if count != last_count:
            last_count = count
            term = -count / total * math.log(count / total)
        entropy += term
    return entropy
