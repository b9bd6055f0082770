"""Compiled loop over raw UTF-8: counts of words, symbols and sentences, and where lines lie and what marks them."""

from __future__ import annotations

from typing import Any

from numba import njit

# The bits of `code_points`, again: compiled code freezes them, and is only compiled again when this very file changes.
UPPER, LOWER_OR_TITLE, WORD, SPACE, PYTHON_SPACE, PYTHON_WORD = (1 << bit for bit in range(6))
ASCII_LETTER, SYMBOL, SENTENCE_END, TERMINAL, BULLET = (1 << bit for bit in (10, 11, 13, 14, 15))
ELLIPSIS = 0x2026
A, Z = 0x61, 0x7A  # ASCII's small letters: runs of them are passed over in a tight loop
# Columns of the documents' counts.
N_CHARS, N_WORDS, N_ALPHABETIC, N_CAPITAL, N_SYMBOLS, N_SENTENCES, N_CURLY, N_LINES, N_ELLIPSIS_LINES = range(9)
# Rows of the lines' marks.
LINE_UPPER, LINE_TERMINAL, LINE_BULLET = range(3)


@njit(cache=True, nogil=True)
def decode(data: Any, at: int) -> tuple[int, int]:
    """The code point at byte `at` of valid UTF-8, and where the next one starts."""
    first = int(data[at])
    if first < 0x80:
        return first, at + 1
    if first < 0xE0:
        return (first & 0x1F) << 6 | int(data[at + 1]) & 0x3F, at + 2
    if first < 0xF0:
        return (first & 0xF) << 12 | (int(data[at + 1]) & 0x3F) << 6 | int(data[at + 2]) & 0x3F, at + 3
    high = (first & 0x7) << 18 | (int(data[at + 1]) & 0x3F) << 12
    return high | (int(data[at + 2]) & 0x3F) << 6 | int(data[at + 3]) & 0x3F, at + 4


@njit(cache=True, nogil=True)
def count_lines(data: Any, offsets: Any, out: Any) -> None:
    """How many lines each document has, into `out` (int64). Only a line feed ends a line."""
    for document in range(len(offsets) - 1):
        start, end = offsets[document], offsets[document + 1]
        n_lines = 0
        for at in range(start, end):
            n_lines += data[at] == 0x0A
        out[document] = n_lines + (end > start and data[end - 1] != 0x0A)


@njit(cache=True, nogil=True)
def scan(data: Any, offsets: Any, firsts: Any, info: Any, out: Any, spans: Any, marks: Any) -> None:
    """Fill `out` (int64, documents x 9) with the counts named above.

    For documents that have lines in `firsts` (the number of each document's first line, one more than documents) also
    `spans` (int64, 2 x lines: start, end in code points from the text's start) and `marks` (int32, 3 x lines).
    """
    for document in range(len(offsets) - 1):
        line, last_line = firsts[document], firsts[document + 1]
        _scan(data, offsets[document], offsets[document + 1], line, last_line, info, out[document], spans, marks)


@njit(cache=True, nogil=True)
def _scan(data: Any, at: int, end: int, line: int, last_line: int, info: Any, out: Any, spans: Any, marks: Any) -> None:
    out[:] = 0
    n_chars = n_dots = line_start = n_upper = 0
    kind = 0  # of the word being read: 0 none, 1 word characters, 2 others
    seen = 0  # properties of its characters
    in_sentence = False
    first_bits = last_bits = last_code = last_dots = 0  # of the line's characters that are not stripped
    while at < end:
        code, at = decode(data, at)
        bits = int(info[code])
        n_chars += 1
        here = 1 if bits & WORD else (0 if bits & SPACE else 2)
        if here != kind:
            if kind:
                _add_word(seen, out)
            kind, seen = here, 0
        seen |= bits
        n_upper += bits & UPPER  # the lowest bit
        # A sentence starts at a word boundary; between sentences no word character has been seen, so any starts one.
        if in_sentence:
            in_sentence = (bits & SENTENCE_END) == 0
        elif bits & PYTHON_WORD:
            in_sentence = True
            out[N_SENTENCES] += 1
        if code == 0x2E:
            n_dots += 1
        elif n_dots:
            out[N_SYMBOLS] += n_dots // 3
            n_dots = 0
        if here == 2:
            out[N_SYMBOLS] += (bits & SYMBOL) != 0
            out[N_CURLY] += code == 0x7B or code == 0x7D
        if not bits & PYTHON_SPACE:
            first_bits = first_bits or bits | 1 << 40
            last_bits, last_code, last_dots = bits, code, n_dots
        if A <= code <= Z:  # more of the same change nothing but the length
            start = at
            while at < end and A <= data[at] <= Z:
                at += 1
            n_chars += at - start
        if code == 0x0A or at == end:
            out[N_LINES] += 1
            out[N_ELLIPSIS_LINES] += last_dots >= 3 or last_code == ELLIPSIS
            if line < last_line:
                spans[0, line], spans[1, line] = line_start, n_chars
                marks[LINE_UPPER, line] = n_upper
                marks[LINE_TERMINAL, line] = (last_bits & TERMINAL) != 0
                marks[LINE_BULLET, line] = (first_bits & BULLET) != 0
                line += 1
            line_start, n_upper = n_chars, 0
            first_bits = last_bits = last_code = last_dots = 0
    if kind:
        _add_word(seen, out)
    out[N_SYMBOLS] += n_dots // 3
    out[N_CHARS] = n_chars


@njit(cache=True, nogil=True)
def _add_word(seen: int, out: Any) -> None:
    out[N_WORDS] += 1
    out[N_ALPHABETIC] += (seen & ASCII_LETTER) != 0
    out[N_CAPITAL] += (seen & (UPPER | LOWER_OR_TITLE)) == UPPER
