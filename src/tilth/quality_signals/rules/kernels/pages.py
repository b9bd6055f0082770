"""Compiled loops over the lines of texts: what the rules of C4 and of FineWeb compare, as datatrove's two filters compute it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from tilth.quality_signals.rules.characters import DECIMAL, LINE_BREAK, PUNCTUATION, SENTENCE_END, SPACE, TERMINAL

# Columns of the table of lines; positions are in `codes`. START to NEXT is the line with its break, BODY to BODY_END what
# stripping leaves, KEPT to KEPT_END the same without citations, in another array.
TEXT, START, BODY, BODY_END, NEXT, FAULTS, KEPT, KEPT_END = range(8)
# Faults of a line, in the order in which C4 looks for them. Two of them condemn the whole page.
LONG_WORD, NO_TERMINAL, FEW_WORDS, LOREM_IPSUM, JAVASCRIPT, CURLY, POLICY = (1 << fault for fault in range(7))
MOST_WORD_CHARS, LEAST_WORDS = 1000, 3
# Columns of `count_page_lines`.
N_FULL, N_TERMINAL, N_SHORT, SAME_CHARS, N_FEEDS = range(5)
SHORT_LINE = 30
EDIT, CITATION_NEEDED = (np.array(list(map(ord, word)), np.uint32) for word in ("edit]", "citation needed]"))

BASE, MIX = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD6E8FEB86659FD93)
ZERO, ONE, HALF = np.uint64(0), np.uint64(1), np.uint64(32)


@njit(cache=True, nogil=True)
def count_lines(codes: Any, starts: Any, classes: Any) -> int:
    """How many lines str.splitlines finds in all texts."""
    n = 0
    for text in range(len(starts) - 1):
        at, last = starts[text], starts[text + 1]
        while at < last:
            while at < last and not classes[codes[at]] & LINE_BREAK:
                at += 1
            at += 2 if at + 1 < last and codes[at] == 0x0D and codes[at + 1] == 0x0A else 1
            n += 1
    return n


@njit(cache=True, nogil=True)
def judge_lines(codes: Any, starts: Any, classes: Any, phrases: Any, lengths: Any, lines: Any, kept: Any) -> int:
    """Fill `lines` (int64, lines x 8) and write the lines without citations into `kept`; returns how much of it is used.

    `phrases` (uint32, 8 x longest) and `lengths` are those of C4: lorem ipsum, javascript, then the policies.
    """
    n = used = 0
    for text in range(len(starts) - 1):
        at, last = starts[text], starts[text + 1]
        while at < last:
            row = lines[n]
            n += 1
            row[TEXT], row[START] = text, at
            while at < last and not classes[codes[at]] & LINE_BREAK:
                at += 1
            first, end = row[START], at
            at += 2 if at + 1 < last and codes[at] == 0x0D and codes[at + 1] == 0x0A else 1
            row[NEXT] = min(at, last)
            while first < end and classes[codes[first]] & SPACE:
                first += 1
            while first < end and classes[codes[end - 1]] & SPACE:
                end -= 1
            row[BODY], row[BODY_END], row[KEPT] = first, end, used
            used = _without_citations(codes, first, end, classes, kept, used)
            row[KEPT_END] = used
            row[FAULTS] = _word_faults(codes, first, end, classes) | _faults(kept, row[KEPT], used, phrases, lengths)
    return used


@njit(cache=True, nogil=True)
def _word_faults(codes: Any, first: int, end: int, classes: Any) -> int:
    n_words = longest = 0
    at = first
    while at < end:
        start = at
        while at < end and not classes[codes[at]] & SPACE:
            at += 1
        if at > start:
            n_words += 1
            longest = max(longest, at - start)
        at += 1
    return (LONG_WORD if longest > MOST_WORD_CHARS else 0) | (FEW_WORDS if n_words < LEAST_WORDS else 0)


@njit(cache=True, nogil=True)
def _citation_end(codes: Any, at: int, end: int, classes: Any) -> int:
    """Where the citation that starts at `at` ends ([12], [], [edit], [citation needed]), or -1."""
    if codes[at] != 0x5B:
        return -1
    to = at + 1
    while to < end and classes[codes[to]] & DECIMAL:
        to += 1
    if to < end and codes[to] == 0x5D:
        return to + 1
    if to > at + 1:
        return -1
    if _reads(codes, at + 1, end, EDIT):
        return at + 1 + len(EDIT)
    return at + 1 + len(CITATION_NEEDED) if _reads(codes, at + 1, end, CITATION_NEEDED) else -1


@njit(cache=True, nogil=True)
def _reads(codes: Any, at: int, end: int, word: Any) -> bool:
    step = 0
    while step < len(word) and at + step < end and codes[at + step] == word[step]:
        step += 1
    return step == len(word)


@njit(cache=True, nogil=True)
def _without_citations(codes: Any, first: int, end: int, classes: Any, kept: Any, used: int) -> int:
    at = first
    while at < end:
        to = _citation_end(codes, at, end, classes) if codes[at] == 0x5B else -1
        if to < 0:
            kept[used] = codes[at]
            used += 1
            at += 1
        else:
            at = to
    return used


@njit(cache=True, nogil=True)
def _lower(code: Any) -> int:
    """Lower case as far as it can be ASCII."""
    if 0x41 <= code <= 0x5A:
        return int(code) + 0x20
    return 0x6B if code == 0x212A else int(code)


@njit(cache=True, nogil=True)
def _faults(codes: Any, first: int, end: int, phrases: Any, lengths: Any) -> int:
    faults = 0
    last = codes[end - 1] if end > first else 0
    ends = last == 0x2E or last == 0x3F or last == 0x21 or last == 0x22 or last == 0x27
    if not ends or (last == 0x2E and end - first > 2 and codes[end - 2] == 0x2E and codes[end - 3] == 0x2E):
        faults |= NO_TERMINAL
    for at in range(first, end):
        code = _lower(codes[at])
        if code == 0x7B:
            faults |= CURLY
        if code != 0x6C and code != 0x6A and code != 0x74 and code != 0x70 and code != 0x63 and code != 0x75:  # l j t p c u
            continue
        for phrase in range(len(lengths)):
            step = 0
            while step < lengths[phrase] and at + step < end and _lower(codes[at + step]) == phrases[phrase, step]:
                step += 1
            if step == lengths[phrase]:
                faults |= LOREM_IPSUM if phrase == 0 else (JAVASCRIPT if phrase == 1 else POLICY)
    return faults


@njit(cache=True, nogil=True)
def count_sentences(codes: Any, firsts: Any, lasts: Any, ends: Any, classes: Any, out: Any) -> None:
    """Fill `out` (int64) with how many sentences spaCy's sentenciser cuts each text into; words are given with white space.

    White space behind an end mark is the start of a sentence like any other word, and an empty text is one.
    """
    for text in range(len(ends) - 1):
        n = 1
        after_end = False
        for word in range(ends[text], ends[text + 1]):
            first = firsts[word]
            is_end = lasts[word] - first == 1 and (classes[codes[first]] & SENTENCE_END) != 0
            is_punctuation = True
            for at in range(first, lasts[word]):
                is_punctuation = is_punctuation and (classes[codes[at]] & PUNCTUATION) != 0
            if is_end:
                after_end = True
            elif after_end and not is_punctuation:
                n += 1
                after_end = False
        out[text] = n


@njit(cache=True, nogil=True)
def gather(codes: Any, spans: Any, out: Any) -> None:
    """Copy codes[spans[i, 0]:spans[i, 1]] one after the other."""
    n = 0
    for row in range(len(spans)):
        for at in range(spans[row, 0], spans[row, 1]):
            out[n] = codes[at]
            n += 1


@njit(cache=True, nogil=True)
def join_lines(kept: Any, lines: Any, stays: Any, classes: Any, codes: Any, starts: Any) -> int:
    """Write the lines that stay, without citations, parted by line feeds and stripped, as texts; returns how much of `codes`
    (as long as the texts) is used. `lines` and `kept` are those of `judge_lines`, `starts` (int64) has one more than texts.
    """
    n = line = 0
    for text in range(len(starts) - 1):
        starts[text] = n
        while line < len(lines) and lines[line, TEXT] == text:
            if stays[line]:
                for at in range(lines[line, KEPT], lines[line, KEPT_END]):
                    if n > starts[text] or not classes[kept[at]] & SPACE:
                        codes[n] = kept[at]
                        n += 1
                # A line of text has a break behind it, or is the last one, which ends without.
                if n > starts[text] and n < len(codes):
                    codes[n] = 0x0A
                    n += 1
            line += 1
        while n > starts[text] and classes[codes[n - 1]] & SPACE:
            n -= 1
    starts[len(starts) - 1] = n
    return n


@njit(cache=True, nogil=True)
def third_longest(codes: Any, starts: Any, out: Any) -> None:
    """Fill `out` (int64) with the length of each text's third longest line (between line feeds), 0 with fewer lines."""
    for text in range(len(starts) - 1):
        one = two = three = -1
        start = starts[text]
        for at in range(start, starts[text + 1] + 1):
            if at == starts[text + 1] or codes[at] == 0x0A:
                length = at - start
                if length > one:
                    one, two, three = length, one, two
                elif length > two:
                    two, three = length, two
                elif length > three:
                    three = length
                start = at + 1
        out[text] = max(three, 0)


@njit(cache=True, nogil=True)
def count_page_lines(codes: Any, starts: Any, classes: Any, out: Any) -> None:
    """Fill `out` (int64, texts x 5) with FineWeb's counts of lines between line feeds that are not blank: all, those with a
    terminal mark, short ones, the characters of those seen before; and the number of line feeds.
    """
    most = 1
    for text in range(len(starts) - 1):
        most = max(most, starts[text + 1] - starts[text])
    size = 16
    while size < most + 4:
        size *= 2
    keys = np.zeros(size, np.uint64)
    for text in range(len(starts) - 1):
        _count_page_lines(codes, starts[text], starts[text + 1], classes, keys, out[text])


@njit(cache=True, nogil=True)
def _count_page_lines(codes: Any, first: int, last: int, classes: Any, keys: Any, row: Any) -> None:
    n_feeds = 0
    for at in range(first, last):
        n_feeds += codes[at] == 0x0A
    size = 16
    while size < 2 * min(n_feeds + 1, (last - first) // 2 + 1):
        size *= 2
    keys[:size] = ZERO
    n_full = n_terminal = n_short = same = 0
    start = first
    is_blank = True
    key = ZERO
    for at in range(first, last + 1):
        if at < last and codes[at] != 0x0A:
            is_blank = is_blank and (classes[codes[at]] & SPACE) != 0
            key = key * BASE + (np.uint64(codes[at]) + ONE)
            continue
        if not is_blank:
            length = at - start
            n_full += 1
            n_terminal += (classes[codes[at - 1]] & TERMINAL) != 0
            n_short += length <= SHORT_LINE
            # The length tells apart what the polynomial might not.
            if _was_seen(keys, size, key ^ np.uint64(length) * MIX):
                same += length
        start, is_blank, key = at + 1, True, ZERO
    row[N_FULL], row[N_TERMINAL], row[N_SHORT], row[SAME_CHARS], row[N_FEEDS] = n_full, n_terminal, n_short, same, n_feeds


@njit(cache=True, nogil=True)
def _was_seen(keys: Any, size: int, key: Any) -> bool:
    """Was `key` added before? It is now. A key of 0 stands for a free slot, and becomes another."""
    key = key if key != ZERO else ONE
    mixed = (key ^ (key >> HALF)) * MIX
    slot = np.int64((mixed ^ (mixed >> HALF)) & np.uint64(size - 1))
    while keys[slot] != ZERO:
        if keys[slot] == key:
            return True
        slot = (slot + 1) & (size - 1)
    keys[slot] = key
    return False
