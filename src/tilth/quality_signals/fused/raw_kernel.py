"""Compiled loops over raw UTF-8: counts of words, symbols and sentences, lines, and the normal form."""

from __future__ import annotations

from typing import Any

from numba import njit

# The bits of `code_points`, again: compiled code freezes them, and is only compiled again when this very file changes.
UPPER, LOWER_OR_TITLE, WORD, SPACE, PYTHON_SPACE, PYTHON_WORD, NUMERIC, PUNCTUATION = (1 << bit for bit in range(8))
MAPPED, CONTEXTUAL, ASCII_LETTER, SYMBOL, CURLY, SENTENCE_END, TERMINAL, BULLET = (1 << bit for bit in range(8, 16))
FIRST_CLASS, LAST_CLASS = 16, 24
ELLIPSIS = 0x2026
A, Z = 0x61, 0x7A  # ASCII's small letters: runs of them are passed over in a tight loop
# Columns of `count_raw`.
N_CHARS, N_WORDS, N_ALPHABETIC, N_CAPITAL, N_SYMBOLS, N_SENTENCES, N_CURLY = range(7)
# Rows of the marks of `cut_lines`.
LINE_UPPER, LINE_TERMINAL, LINE_BULLET, LINE_ELLIPSIS = range(4)


@njit(cache=True, nogil=True)
def _decode(data: Any, at: int) -> tuple[int, int]:
    """The code point at byte `at` of valid UTF-8, and where the next one starts."""
    first = data[at]
    if first < 0x80:
        return int(first), at + 1
    if first < 0xE0:
        return (int(first) & 0x1F) << 6 | int(data[at + 1]) & 0x3F, at + 2
    if first < 0xF0:
        return (int(first) & 0xF) << 12 | (int(data[at + 1]) & 0x3F) << 6 | int(data[at + 2]) & 0x3F, at + 3
    high = (int(first) & 0x7) << 18 | (int(data[at + 1]) & 0x3F) << 12
    return high | (int(data[at + 2]) & 0x3F) << 6 | int(data[at + 3]) & 0x3F, at + 4


@njit(cache=True, nogil=True)
def count_raw(data: Any, offsets: Any, info: Any, out: Any) -> None:
    """Fill `out` (int64, documents x 7) with the counts named above."""
    for document in range(len(offsets) - 1):
        _count_raw(data, offsets[document], offsets[document + 1], info, out[document])


@njit(cache=True, nogil=True)
def _count_raw(data: Any, at: int, end: int, info: Any, out: Any) -> None:
    n_chars = n_words = n_alphabetic = n_capital = n_symbols = n_sentences = n_curly = n_dots = 0
    kind = 0  # of the word being read: 0 none, 1 word characters, 2 others
    seen = 0  # properties of its characters
    in_sentence = False
    while at < end:
        code, at = _decode(data, at)
        bits = int(info[code])
        n_chars += 1
        here = 1 if bits & WORD else (0 if bits & SPACE else 2)
        if here != kind:
            if kind:
                n_words += 1
                n_alphabetic += (seen & ASCII_LETTER) != 0
                n_capital += (seen & UPPER) != 0 and (seen & LOWER_OR_TITLE) == 0
            kind = here
            seen = 0
        seen |= bits
        if code == 0x2E:
            n_dots += 1
        elif n_dots:
            n_symbols += n_dots // 3
            n_dots = 0
        n_symbols += (bits & SYMBOL) != 0
        n_curly += (bits & CURLY) != 0
        # A sentence starts at a word boundary; between sentences no word character has been seen, so any starts one.
        if in_sentence:
            in_sentence = (bits & SENTENCE_END) == 0
        elif bits & PYTHON_WORD:
            in_sentence = True
            n_sentences += 1
        if A <= code <= Z:  # more of the same change nothing but the length
            start = at
            while at < end and A <= data[at] <= Z:
                at += 1
            n_chars += at - start
    if kind:
        n_words += 1
        n_alphabetic += (seen & ASCII_LETTER) != 0
        n_capital += (seen & UPPER) != 0 and (seen & LOWER_OR_TITLE) == 0
    n_symbols += n_dots // 3
    out[N_CHARS], out[N_WORDS], out[N_ALPHABETIC], out[N_CAPITAL] = n_chars, n_words, n_alphabetic, n_capital
    out[N_SYMBOLS], out[N_SENTENCES], out[N_CURLY] = n_symbols, n_sentences, n_curly


@njit(cache=True, nogil=True)
def count_lines(data: Any, offsets: Any, firsts: Any) -> None:
    """Fill `firsts` (int64, documents + 1) with the number of each document's first line. Only a line feed ends a line."""
    n_lines = 0
    for document in range(len(offsets) - 1):
        firsts[document] = n_lines
        start, end = offsets[document], offsets[document + 1]
        for at in range(start, end):
            n_lines += data[at] == 0x0A
        n_lines += end > start and data[end - 1] != 0x0A
    firsts[len(offsets) - 1] = n_lines


@njit(cache=True, nogil=True)
def cut_lines(data: Any, offsets: Any, firsts: Any, info: Any, spans: Any, marks: Any) -> None:
    """Fill `spans` (int64, 2 x lines: start, end in code points from the text's start) and `marks` (int32, 4 x lines)."""
    for document in range(len(offsets) - 1):
        at, end = offsets[document], offsets[document + 1]
        position = 0
        for line in range(firsts[document], firsts[document + 1]):
            spans[0, line] = position
            n_upper = n_dots = code = 0
            first_bits = last_bits = last_code = 0  # of characters that are not stripped
            blank = True
            while at < end and code != 0x0A:
                before = code
                code, at = _decode(data, at)
                bits = int(info[code])
                position += 1
                n_upper += (bits & UPPER) != 0
                if not bits & PYTHON_SPACE:
                    if blank:
                        first_bits = bits
                        blank = False
                    last_bits, last_code = bits, code
                    n_dots = (n_dots + 1 if before == 0x2E else 1) if code == 0x2E else 0
                if A <= code <= Z:
                    start = at
                    while at < end and A <= data[at] <= Z:
                        at += 1
                    position += at - start
            spans[1, line] = position
            marks[LINE_UPPER, line] = n_upper
            marks[LINE_TERMINAL, line] = (last_bits & TERMINAL) != 0
            marks[LINE_BULLET, line] = (first_bits & BULLET) != 0
            marks[LINE_ELLIPSIS, line] = n_dots >= 3 or last_code == ELLIPSIS


@njit(cache=True, nogil=True)
def normalise(data: Any, offsets: Any, info: Any, places: Any, pool: Any, out: Any, spans: Any) -> None:
    """Write the normal form of each document into `out` (uint8), and where it lies into `spans` (int64, documents x 2).

    Lines stay apart by line feeds. A span that ends at -1 marks a document whose lower case depends on context or
    whose combining marks need sorting: its form must be made elsewhere.
    """
    written = 0
    for document in range(len(offsets) - 1):
        spans[document, 0] = written
        end = _normalise(data, offsets[document], offsets[document + 1], info, places, pool, out, written)
        spans[document, 1] = end
        if end >= 0:
            written = end


@njit(cache=True, nogil=True)
def _normalise(data: Any, at: int, end: int, info: Any, places: Any, pool: Any, out: Any, written: int) -> int:
    """The end of what was written from `written` on, or -1."""
    gap = False  # a space is due before the next character
    bare = True  # nothing on this line yet
    last_class = 0
    while at < end:
        start = at
        code, at = _decode(data, at)
        bits = int(info[code])
        if bits & PUNCTUATION:
            continue
        if bits & PYTHON_SPACE:
            gap = not bare
            if code == 0x0A:
                out[written] = 0x0A
                written += 1
                gap = False
                bare = True
            continue
        if bits & CONTEXTUAL:
            return -1
        if gap or bare:
            last_class = 0
        if gap:
            out[written] = 0x20
            written += 1
            gap = False
        bare = False
        first_class = bits >> FIRST_CLASS & 0xFF
        if first_class != 0 and first_class < last_class:
            return -1
        last_class = bits >> LAST_CLASS & 0xFF
        if bits & MAPPED:
            place = places[code]
            for step in range(pool[place]):
                out[written] = pool[place + 1 + step]
                written += 1
        else:
            while at < end and A <= code <= Z and A <= data[at] <= Z:
                at += 1
            for step in range(start, at):
                out[written] = data[step]
                written += 1
    return written
