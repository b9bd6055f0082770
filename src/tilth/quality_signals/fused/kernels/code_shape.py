"""Compiled loops over the UTF-8 of source files: lines, letters, and data written as text. Time is linear for any input."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from tilth.quality_signals.fused.kernels.raw import decode

# The bits of `character_kinds`, again: compiled code freezes them.
ALPHABETIC, ALPHANUMERIC, SPACE = 1, 2, 4
# Columns of the counts.
N_CHARS, N_LINES, N_LINE_CHARS, LONGEST_LINE, N_ALPHABETIC, N_ALPHANUMERIC, N_ENCODED, LONGEST_ENCODED = range(8)
NEWLINE, RETURN, COMMA, BACKSLASH, UNDERSCORE, ZERO, X, U = 0x0A, 0x0D, 0x2C, 0x5C, 0x5F, 0x30, 0x78, 0x75
LEAST_BASE64, LEAST_HEX_BYTES, LEAST_UNITS = 64, 23, 8  # eight pairs and what parts them take 23 bytes or more
BASE64, HEX_DIGIT, IN_HEX = 1, 2, 4  # bits of a byte in `byte_kinds`


def byte_kinds() -> Any:
    """What a byte can be part of (uint8 x 256): base64 with its newlines, a hexadecimal digit, or a run of hexadecimal pairs."""
    kinds = np.zeros(256, np.uint8)
    digits = b"0123456789abcdefABCDEF"
    kinds[list(range(0x80, 0x100))] |= IN_HEX  # white space beyond ASCII may part pairs
    for members, bit in (
        (b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+/\n=", BASE64),
        (digits, HEX_DIGIT),
        (digits + b"x\\, \t\n\r\v\f\x1c\x1d\x1e\x1f", IN_HEX),
    ):
        kinds[list(members)] |= bit
    return kinds


@njit(cache=True, nogil=True)
def measure(data: Any, offsets: Any, kinds: Any, of_byte: Any, out: Any) -> None:
    """Fill `out` (int64, documents x 8) with the columns named above. Lengths are in characters without `\\n` or `\\r\\n`.

    `kinds` are those of `character_kinds`, `of_byte` those of `byte_kinds`.
    """
    for document in range(len(offsets) - 1):
        start, end = offsets[document], offsets[document + 1]
        out[document, :] = 0
        _lines_and_letters(data, start, end, kinds, out[document])
        _encoded(data, start, end, kinds, of_byte, out[document])


@njit(cache=True, nogil=True)
def _lines_and_letters(data: Any, at: int, end: int, kinds: Any, out: Any) -> None:
    n_chars = n_lines = n_line_chars = longest = n_alphabetic = n_alphanumeric = line_start = 0
    before = 0
    while at < end:
        byte = int(data[at])
        if byte < 0x80:
            code, at = byte, at + 1
        else:
            code, at = decode(data, at)
        kind = int(kinds[code])
        n_alphabetic += kind & 1
        n_alphanumeric += (kind >> 1) & 1
        if code == NEWLINE:
            length = n_chars - line_start - (before == RETURN)
            n_lines += 1
            n_line_chars += length
            longest = max(longest, length)
            line_start = n_chars + 1
            before = 0
        else:
            before = code
        n_chars += 1
    if line_start < n_chars:
        length = n_chars - line_start - (before == RETURN)
        n_lines += 1
        n_line_chars += length
        longest = max(longest, length)
    out[N_CHARS], out[N_LINES], out[N_LINE_CHARS], out[LONGEST_LINE] = n_chars, n_lines, n_line_chars, longest
    out[N_ALPHABETIC], out[N_ALPHANUMERIC] = n_alphabetic, n_alphanumeric


@njit(cache=True, nogil=True)
def _encoded(data: Any, start: int, end: int, kinds: Any, of_byte: Any, out: Any) -> None:
    """Characters in the union of all matches of the three patterns, and in the longest match."""
    n_bytes = end - start
    if n_bytes < LEAST_HEX_BYTES:
        return
    spans = np.empty((3, n_bytes // LEAST_HEX_BYTES + 1, 2), np.int64)
    counts = (
        _base64_spans(data, start, end, of_byte, spans[0]),
        _hex_spans(data, start, end, kinds, of_byte, spans[1]),
        _escape_spans(data, start, end, of_byte, spans[2]),
    )
    next_of = np.zeros(3, np.int64)
    covered_to = start
    while True:
        first = -1
        for kind in range(3):
            if next_of[kind] < counts[kind] and (first < 0 or spans[kind, next_of[kind], 0] < spans[first, next_of[first], 0]):
                first = kind
        if first < 0:
            return
        span_start, span_end = spans[first, next_of[first], 0], spans[first, next_of[first], 1]
        next_of[first] += 1
        out[LONGEST_ENCODED] = max(out[LONGEST_ENCODED], count_characters(data, span_start, span_end))
        out[N_ENCODED] += count_characters(data, max(span_start, covered_to), span_end)
        covered_to = max(covered_to, span_end)


@njit(cache=True, nogil=True)
def count_characters(data: Any, start: int, end: int) -> int:
    """Code points of the UTF-8 bytes `start:end`; 0 where `end` lies before `start`."""
    n = 0
    for at in range(start, end):
        n += (data[at] & 0xC0) != 0x80
    return n


@njit(cache=True, nogil=True)
def _base64_spans(data: Any, at: int, end: int, of_byte: Any, spans: Any) -> int:
    """`[a-zA-Z0-9+/\\n=]{64,}`: only every 64th byte is looked at where nothing is found."""
    n = 0
    while at + LEAST_BASE64 <= end:
        probe = at + LEAST_BASE64 - 1
        if not of_byte[data[probe]] & BASE64:
            at = probe + 1
            continue
        first = probe
        while first > at and of_byte[data[first - 1]] & BASE64:
            first -= 1
        last = probe + 1
        while last < end and of_byte[data[last]] & BASE64:
            last += 1
        if last - first >= LEAST_BASE64:
            spans[n, 0], spans[n, 1] = first, last
            n += 1
        at = last
    return n


@njit(cache=True, nogil=True)
def _hex_spans(data: Any, start: int, end: int, kinds: Any, of_byte: Any, spans: Any) -> int:
    """`(?:\\b(?:0x|\\\\x)?[0-9a-fA-F]{2}(?:,|\\b\\s*)){8,}`.

    A run of pairs is tried from its start alone: those that start inside it end where it does.
    """
    n, at = 0, start
    while at + LEAST_HEX_BYTES <= end:
        if not of_byte[data[at + LEAST_HEX_BYTES - 1]] & IN_HEX:
            at += LEAST_HEX_BYTES
            continue
        if not of_byte[data[at]] & (HEX_DIGIT | IN_HEX):
            at += 1
            continue
        n_units, stop = 0, at
        while True:
            after = _hex_unit(data, stop, start, end, kinds, of_byte)
            if after < 0:
                break
            n_units, stop = n_units + 1, after
        if n_units >= LEAST_UNITS:
            spans[n, 0], spans[n, 1] = at, stop
            n += 1
        at = stop if n_units else at + 1
    return n


@njit(cache=True, nogil=True)
def _hex_unit(data: Any, at: int, start: int, end: int, kinds: Any, of_byte: Any) -> int:
    """Where one pair with its comma or white space ends; -1 where there is none."""
    if at + 2 > end or _is_word_before(data, at, start, kinds) == _is_word_at(data, at, end, kinds):
        return -1
    if at + 4 <= end and data[at + 1] == X and (data[at] == ZERO or data[at] == BACKSLASH):
        at += 2
    if not (of_byte[data[at]] & HEX_DIGIT and of_byte[data[at + 1]] & HEX_DIGIT):
        return -1
    at += 2
    if at < end and data[at] == COMMA:
        return at + 1
    if _is_word_at(data, at, end, kinds):
        return -1
    while at < end:
        code, after = decode(data, at)
        if not kinds[code] & SPACE:
            break
        at = after
    return at


@njit(cache=True, nogil=True)
def _is_word_at(data: Any, at: int, end: int, kinds: Any) -> bool:
    if at >= end:
        return False
    code, _ = decode(data, at)
    return (kinds[code] & ALPHANUMERIC) != 0 or code == UNDERSCORE


@njit(cache=True, nogil=True)
def _is_word_before(data: Any, at: int, start: int, kinds: Any) -> bool:
    if at <= start:
        return False
    at -= 1
    while data[at] & 0xC0 == 0x80:
        at -= 1
    code, _ = decode(data, at)
    return (kinds[code] & ALPHANUMERIC) != 0 or code == UNDERSCORE


@njit(cache=True, nogil=True)
def _escape_spans(data: Any, at: int, end: int, of_byte: Any, spans: Any) -> int:
    """`(?:\\\\u[0-9a-fA-F]{4}){8,}`."""
    n = 0
    while at + 6 * LEAST_UNITS <= end:
        if data[at] != BACKSLASH:
            at += 1
            continue
        stop = at
        while stop + 6 <= end and data[stop] == BACKSLASH and data[stop + 1] == U and _four_digits(data, stop + 2, of_byte):
            stop += 6
        if stop - at >= 6 * LEAST_UNITS:
            spans[n, 0], spans[n, 1] = at, stop
            n += 1
        at = max(stop, at + 1)
    return n


@njit(cache=True, nogil=True)
def _four_digits(data: Any, at: int, of_byte: Any) -> bool:
    return (of_byte[data[at]] & of_byte[data[at + 1]] & of_byte[data[at + 2]] & of_byte[data[at + 3]] & HEX_DIGIT) != 0
