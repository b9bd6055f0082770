"""Compiled search for the places where a secret or an address may begin: many literals in one pass over UTF-8 bytes.

The first two bytes of a place lead to the literals that begin with them; most places have none. What is found is only a
candidate. Every look around a place is bounded, so that no input makes the search more than linear.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

# How a literal is looked at where it occurs.
PLAIN, WORD_START, ASSIGNMENT, URL, EMAIL, IPV4, IPV6, SIX_BETWEEN_DOTS = range(8)
# Columns of the candidates: document, literal, and where the literal and what it is about begin and end (bytes in `data`).
DOCUMENT, LITERAL, AT, START, END = range(5)
N_COLUMNS = 5
# Bits of a byte's classes.
DIGIT, LETTER, HEX, WORD, TOKEN, BLANK, QUOTE, SEPARATOR, VALUE, LOCAL = (1 << bit for bit in range(10))
MOST_NAME, MOST_BETWEEN, MOST_VALUE, MOST_AUTHORITY = 48, 24, 512, 512
LEAST_VALUE = 8


def _classes() -> np.ndarray[Any, np.dtype[np.int32]]:
    found = np.zeros(256, np.int32)
    sets = (
        (DIGIT, b"0123456789"),
        (LETTER, b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"),
        (HEX, b"0123456789abcdefABCDEF"),
        (BLANK, b" \t"),
        (QUOTE, b"\"'`"),
        (SEPARATOR, b"=:,(>[]{)"),
        (VALUE, b"+/=_.~-"),
        (LOCAL, b"_%+.-"),
    )
    for bit, chars in sets:
        for char in chars:
            found[char] |= bit
    for char in range(256):
        if found[char] & (DIGIT | LETTER):
            found[char] |= WORD | TOKEN | VALUE | LOCAL
    found[ord("_")] |= WORD | TOKEN
    found[ord("-")] |= TOKEN
    return found


CLASSES = _classes()


@njit(cache=True, nogil=True)
def find_literals(
    data: Any, offsets: Any, document: int, at: int, buckets: Any, firsts: Any, letters: Any, bounds: Any, looks: Any, out: Any
) -> tuple[int, int, int]:
    """Candidates from byte `at` of `document` on, into `out` (int64, n x N_COLUMNS), until the texts end or `out` is full.

    `buckets` (int16, 65536) leads from two bytes, the first the higher, to literals `firsts[bucket]:firsts[bucket + 1]`;
    bucket 0 is empty. Literal i is `letters[bounds[i]:bounds[i + 1]]`; where its `looks` is ASSIGNMENT it is in lower case and
    compared without case. Returns the number of candidates, and the document and byte at which to go on.
    """
    n_found = 0
    while document < len(offsets) - 1:
        start, end = offsets[document], offsets[document + 1]
        at = max(at, start)
        while at < end - 1:
            bucket = buckets[np.int64(data[at]) << 8 | np.int64(data[at + 1])]
            if bucket == 0:
                at += 1
                continue
            for literal in range(firsts[bucket], firsts[bucket + 1]):
                look = looks[literal]
                if not _is_there(data, at, end, letters, bounds[literal], bounds[literal + 1], look == ASSIGNMENT):
                    continue
                after = at + bounds[literal + 1] - bounds[literal]
                first, last = _about(data, start, at, after, end, look)
                if last > first:
                    row = out[n_found]
                    row[DOCUMENT], row[LITERAL], row[AT], row[START], row[END] = document, literal, at, first, last
                    n_found += 1
            at += 1
            if n_found > len(out) - 64:  # no two bytes begin as many literals
                return n_found, document, at
        document += 1
        at = 0
    return n_found, document, 0


@njit(cache=True, nogil=True)
def _is_there(data: Any, at: int, end: int, letters: Any, first: int, last: int, fold: bool) -> bool:
    if at + last - first > end:
        return False
    for i in range(last - first):
        char = data[at + i]
        if fold and 0x41 <= char <= 0x5A:
            char |= 0x20
        if char != letters[first + i]:
            return False
    return True


@njit(cache=True, nogil=True)
def _about(data: Any, start: int, at: int, after: int, end: int, look: int) -> tuple[int, int]:
    """Where what the literal is about begins and ends; an empty range where it cannot be anything."""
    if look == PLAIN:
        return at, after
    if look == WORD_START:
        return (at, after) if _is_boundary(data, start, at) and _goes_on(data, after, end) else (0, 0)
    if look == ASSIGNMENT:
        return _assigned(data, after, end)
    if look == URL:
        return _password(data, after, end)
    if look == EMAIL:
        is_one = at > start and CLASSES[data[at - 1]] & LOCAL and _is_domain(data, at + 1, end)
        return (at, after) if is_one else (0, 0)
    if look == IPV4:
        return _ipv4(data, start, at, end)
    if look == IPV6:
        return _ipv6(data, start, at, end)
    # A Discord token has six bytes between two dots.
    is_one = at + 30 < end and data[at + 7] == 0x2E and at > start and CLASSES[data[at - 1]] & TOKEN
    return (at, after) if is_one else (0, 0)


@njit(cache=True, nogil=True)
def _is_boundary(data: Any, start: int, at: int) -> bool:
    """Does a word start here, and not in the middle of base64, which has a plus?"""
    if at == start or _is_escaped(data, start, at):
        return True
    return CLASSES[data[at - 1]] & TOKEN == 0 and data[at - 1] != 0x2B


@njit(cache=True, nogil=True)
def _is_escaped(data: Any, start: int, at: int) -> bool:
    """Is the byte before `at` the letter of a `\\n`, `\\r` or `\\t` that is written as an escape?"""
    if at - 2 < start or data[at - 2] != 0x5C:
        return False
    return data[at - 1] == 0x6E or data[at - 1] == 0x72 or data[at - 1] == 0x74


@njit(cache=True, nogil=True)
def _goes_on(data: Any, at: int, end: int) -> bool:
    """Do enough bytes follow that a token may have?"""
    if at + LEAST_VALUE > end:
        return False
    n_fit = 0
    for i in range(at, at + LEAST_VALUE):
        n_fit += CLASSES[data[i]] & VALUE != 0
    return n_fit == LEAST_VALUE


@njit(cache=True, nogil=True)
def _is_domain(data: Any, at: int, end: int) -> bool:
    """A label, a dot, and the beginning of another label."""
    first, last = at, min(end - 1, at + 63)
    while at < last and CLASSES[data[at]] & TOKEN:
        at += 1
    return at > first and at < last and data[at] == 0x2E and CLASSES[data[at + 1]] & (LETTER | DIGIT) != 0


@njit(cache=True, nogil=True)
def _assigned(data: Any, at: int, end: int) -> tuple[int, int]:
    """The value that is assigned to a name of which a keyword ends at `at`: quoted, or alone to the line's end."""
    last = min(end, at + MOST_NAME)
    while at < last and CLASSES[data[at]] & TOKEN:
        at += 1
    last = min(end, at + MOST_BETWEEN)
    n_separators, quote = 0, 0
    while at < last:
        kind = CLASSES[data[at]]
        if kind & QUOTE:
            if n_separators:
                break
            quote = data[at]  # it ends the name
        elif kind & SEPARATOR:
            n_separators += 1
        elif not kind & BLANK:
            typed = _after_type(data, at, last)
            if typed == at:
                break
            at = typed
        at += 1
    if n_separators == 0 or at >= last:
        return 0, 0
    if CLASSES[data[at]] & QUOTE:
        return _quoted(data, at + 1, end, data[at])
    first, last, n_digits = at, min(end, at + MOST_VALUE), 0
    while at < last and CLASSES[data[at]] & VALUE:
        n_digits += CLASSES[data[at]] & DIGIT != 0
        at += 1
    is_last = at == end or data[at] == 0x0A or data[at] == 0x0D or data[at] == 0x3C
    return (first, at) if is_last and quote == 0 and at - first >= 2 * LEAST_VALUE and n_digits else (0, 0)


@njit(cache=True, nogil=True)
def _after_type(data: Any, at: int, end: int) -> int:
    """Where the name of a type at `at` is followed by `=`; `at` where it is not."""
    sign = at
    while sign < end and CLASSES[data[sign]] & LETTER:
        sign += 1
    while sign < end and CLASSES[data[sign]] & BLANK:
        sign += 1
    return sign if sign < end and data[sign] == 0x3D else at


@njit(cache=True, nogil=True)
def _quoted(data: Any, first: int, end: int, quote: int) -> tuple[int, int]:
    at, last, n_digits = first, min(end, first + MOST_VALUE), 0
    while at < last and data[at] != quote:
        if data[at] <= 0x20 or data[at] == 0x7F:
            return 0, 0
        n_digits += CLASSES[data[at]] & DIGIT != 0
        at += 1
    return (first, at) if at < last and at - first >= LEAST_VALUE and n_digits else (0, 0)


@njit(cache=True, nogil=True)
def _password(data: Any, at: int, end: int) -> tuple[int, int]:
    """Between the colon and the last `@` of a URL's authority."""
    last, colon, sign = min(end, at + MOST_AUTHORITY), 0, 0
    while at < last:
        char = data[at]
        if char <= 0x20 or CLASSES[char] & QUOTE or char == 0x2F or char == 0x3C or char == 0x3E or char == 0x5C:
            break
        if char == 0x3A and colon == 0:
            colon = at
        elif char == 0x40:
            sign = at
        at += 1
    return (colon + 1, sign) if colon and sign > colon + 1 else (0, 0)


@njit(cache=True, nogil=True)
def _ipv4(data: Any, start: int, at: int, end: int) -> tuple[int, int]:
    """Four numbers below 256 around a first dot, with no word, dot, plus or minus before and no word after."""
    first = at
    while first > start and first > at - 4 and CLASSES[data[first - 1]] & DIGIT:
        first -= 1
    if first == at or first == at - 4 or not _is_boundary(data, start, first) or (first > start and data[first - 1] == 0x2E):
        return 0, 0
    last = first
    for part in range(4):
        number, n_digits = np.int64(0), 0
        while last < end and n_digits < 4 and CLASSES[data[last]] & DIGIT:
            number, n_digits = 10 * number + np.int64(data[last]) - 0x30, n_digits + 1
            last += 1
        if n_digits == 0 or number > 255 or (part < 3 and (last >= end or data[last] != 0x2E)):
            return 0, 0
        last += part < 3
    if last < end and CLASSES[data[last]] & TOKEN:
        return 0, 0
    if last + 1 < end and data[last] == 0x2E and CLASSES[data[last + 1]] & (DIGIT | LETTER):
        return 0, 0
    return first, last


@njit(cache=True, nogil=True)
def _ipv6(data: Any, start: int, at: int, end: int) -> tuple[int, int]:
    """A run of hexadecimal digits and colons, of which the colon at `at` is the first, with enough of both."""
    first = at
    while first > start and first > at - 5 and CLASSES[data[first - 1]] & HEX:
        first -= 1
    if first == at - 5:
        return 0, 0
    if first > start and (CLASSES[data[first - 1]] & TOKEN or data[first - 1] == 0x3A or data[first - 1] == 0x2E):
        return 0, 0
    last, n_colons, n_digits, has_double = first, 0, 0, False
    while last < end and last < first + 40 and (CLASSES[data[last]] & HEX or data[last] == 0x3A):
        n_colons += data[last] == 0x3A
        n_digits += CLASSES[data[last]] & DIGIT != 0
        has_double |= data[last] == 0x3A and last > first and data[last - 1] == 0x3A
        last += 1
    if last < end and (CLASSES[data[last]] & TOKEN or data[last] == 0x3A):
        return 0, 0
    if last + 1 < end and data[last] == 0x2E and CLASSES[data[last + 1]] & DIGIT:
        return 0, 0
    if last - first > 1 and data[last - 1] == 0x3A and data[last - 2] != 0x3A:
        last, n_colons = last - 1, n_colons - 1
    return (first, last) if n_digits and (n_colons == 7 or (has_double and 2 <= n_colons <= 7)) else (0, 0)
