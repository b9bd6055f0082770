"""Cuts texts into the words that spaCy's blank English tokeniser gives, which datatrove's filters count, without Python strings.

Source of the definition: spaCy 3.8, `Tokenizer` with the prefix, suffix, infix, URL and exception rules of English (MIT
licence). A text is cut at white space; from each piece prefixes and suffixes are taken off until an exception or a URL
is left, and the rest is cut at infixes; then words that together spell an exception become that exception.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit

from tilth.quality_signals.rules.characters import (
    BEFORE_DOT,
    CURRENCY,
    DECIMAL,
    ICON,
    LETTER,
    LOWER,
    PREFIX,
    QUOTE,
    SPACE,
    SUFFIX,
    UPPER,
    URL_LETTER,
    WORD,
)

LONGEST_EXCEPTION, LONGEST_UNIT, MOST_CUTS, MOST_SPELT = 12, 8, 3, 30
BASE = np.uint64(0x9E3779B97F4A7C15)  # of the polynomial, modulo 2**64, that hashes strings
MIX = np.uint64(0xD6E8FEB86659FD93)
ZERO, ONE, HALF = np.uint64(0), np.uint64(1), np.uint64(32)
PLAIN = LETTER | PREFIX | SUFFIX | ICON | QUOTE  # a letter has the first bit alone unless it is cut off or apart too
# Marks of words: of letters and digits alone; parted from the word before it by more than a blank.
SIMPLE, PARTED = 1, 2


# What a key of the table stands for: the hash of an exception (its row in `cuts`), of a unit, of a word that can be the first
# of several that spell an exception (how many the longest of these has), the joint hash of such words (the row in `cuts`).
EXCEPTION, UNIT, OPENING, SPELT = np.uint64(0), np.uint64(0xA5A5A5A5), np.uint64(0x5A5A5A5A5A), np.uint64(0x3C3C3C3C3C3C)


class WordTables(NamedTuple):
    """What `cut_words` looks up."""

    classes: Any  # uint32 by code point
    keys: Any  # uint64, hashes xor their kind; open addressing with 0 for empty, sized a power of two
    rows: Any  # int32, what the keys stand for
    cuts: Any  # int32, exceptions x (1 + MOST_CUTS): number of words and their lengths


@njit(cache=True, nogil=True)
def _slot(key: Any, size: int) -> Any:
    mixed = (key ^ (key >> HALF)) * MIX
    return np.int64((mixed ^ (mixed >> HALF)) & np.uint64(size - 1))


@njit(cache=True, nogil=True)
def _find(keys: Any, key: Any) -> int:
    """The slot of `key`, or -1."""
    at = _slot(key, len(keys))
    while keys[at] != ZERO:
        if keys[at] == key:
            return at
        at = (at + 1) & (len(keys) - 1)
    return -1


@njit(cache=True, nogil=True)
def insert(keys: Any, values: Any, key: Any, value: int) -> None:
    """Let `key` have `value`, or the larger one where it has one already."""
    at = _slot(key, len(keys))
    while keys[at] != ZERO and keys[at] != key:
        at = (at + 1) & (len(keys) - 1)
    values[at] = max(value, values[at]) if keys[at] == key else value
    keys[at] = key


@njit(cache=True, nogil=True)
def hash_string(codes: Any, first: int, last: int) -> Any:
    """The hash of codes[first:last]."""
    found = ZERO
    for at in range(first, last):
        found = found * BASE + (np.uint64(codes[at]) + ONE)
    return found


@njit(cache=True, nogil=True)
def join_hashes(so_far: Any, word: Any) -> Any:
    """The joint hash of words, one further."""
    so_far = (so_far ^ (so_far >> HALF)) * MIX  # first, so that the order of words matters
    return ((so_far ^ word) + ONE) * BASE


@njit(cache=True, nogil=True)
def _exception(codes: Any, first: int, last: int, keys: Any, rows: Any) -> int:
    """Row of the exception that codes[first:last] is, or -1."""
    if last - first > LONGEST_EXCEPTION or first >= last:
        return -1
    slot = _find(keys, hash_string(codes, first, last) ^ EXCEPTION)
    return int(rows[slot]) if slot >= 0 else -1


@njit(cache=True, nogil=True)
def _is_digit(code: Any) -> bool:
    return 0x30 <= code <= 0x39


@njit(cache=True, nogil=True)
def _prefix(codes: Any, first: int, last: int, classes: Any) -> int:
    """Length of the prefix to take off."""
    code = codes[first]
    if classes[code] & PREFIX:
        return 1
    if code == 0x2E:  # .. and longer
        at = first + 1
        while at < last and codes[at] == 0x2E:
            at += 1
        return at - first if at - first > 1 else 0
    if code == 0x2B:  # + but not before a digit
        return 0 if first + 1 < last and _is_digit(codes[first + 1]) else 1
    if code == 0x55 and last - first > 2 and codes[first + 1] == 0x53 and codes[first + 2] == 0x24:  # US$
        return 3
    if (code == 0x43 or code == 0x41) and last - first > 1 and codes[first + 1] == 0x24:  # C$ A$
        return 2
    return 0


@njit(cache=True, nogil=True)
def _dot_suffix(codes: Any, first: int, last: int, classes: Any) -> int:
    at = last - 1
    while at > first and codes[at - 1] == 0x2E:
        at -= 1
    if last - at > 1:
        return last - at
    if last - first < 2:
        return 0
    before = codes[last - 2]
    if classes[before] & BEFORE_DOT:
        return 1
    if last - first < 3:
        return 0
    if classes[before] & classes[codes[last - 3]] & UPPER:
        return 1
    is_degree = before == 0x46 or before == 0x66 or before == 0x43 or before == 0x63 or before == 0x4B or before == 0x6B
    return 1 if is_degree and codes[last - 3] == 0xB0 else 0


@njit(cache=True, nogil=True)
def _suffix(codes: Any, first: int, last: int, classes: Any, keys: Any) -> int:
    """Length of the longest suffix to take off; what lies before `first` is out of sight."""
    if first >= last:
        return 0
    code = codes[last - 1]
    if code == 0x2E:
        return _dot_suffix(codes, first, last, classes)
    length = 1 if classes[code] & SUFFIX else 0
    if last - first < 2:
        return length
    before = codes[last - 2]
    if (code == 0x2026 and before == 0x2026) or ((code == 0x73 or code == 0x53) and (before == 0x27 or before == 0x2019)):
        length = 2
    # The rest follows a digit: +, currencies and units.
    digit = last - 1
    while digit >= first and digit >= last - LONGEST_UNIT and not _is_digit(codes[digit]):
        digit -= 1
    if digit < first or digit == last - 1 or not _is_digit(codes[digit]):
        return length
    after = last - 1 - digit
    if after == 1 and (code == 0x2B or classes[code] & CURRENCY):
        return max(length, 1)
    if code == 0x24 and after == 2 and (before == 0x43 or before == 0x41):
        return max(length, 2)
    if code == 0x24 and after == 3 and before == 0x53 and codes[last - 3] == 0x55:
        return max(length, 3)
    if _find(keys, hash_string(codes, digit + 1, last) ^ UNIT) >= 0:
        return max(length, after)
    return length


@njit(cache=True, nogil=True)
def _infix(codes: Any, first: int, last: int, at: int, classes: Any) -> int:
    """Length of the infix that starts at `at`, or 0."""
    code = codes[at]
    bits = classes[code]
    if code == 0x2026 or bits & ICON:
        return 1
    if code >= 0x80 and code != 0x2013 and code != 0x2014:
        return 0
    before = classes[codes[at - 1]] if at > first else 0
    after = classes[codes[at + 1]] if at + 1 < last else 0
    after_digit = at > first and _is_digit(codes[at - 1])
    if code == 0x2E:
        end = at + 1
        while end < last and codes[end] == 0x2E:
            end += 1
        if end - at > 1:
            return end - at
        return 1 if before & (LOWER | QUOTE) and after & (UPPER | QUOTE) else 0
    if code == 0x2C:
        return 1 if before & LETTER and after & LETTER else 0
    is_operator = code == 0x2B or code == 0x2D or code == 0x2A or code == 0x5E  # + - * ^
    if after_digit and is_operator and at + 1 < last and (_is_digit(codes[at + 1]) or codes[at + 1] == 0x2D):
        return 1
    if not (before & LETTER or after_digit):
        return 0
    if code == 0x3A or code == 0x3C or code == 0x3E or code == 0x3D or code == 0x2F:  # : < > = /
        return 1 if after & LETTER else 0
    if code == 0x7E or code == 0x2013:
        return 1 if after & LETTER else 0
    if code == 0x2D or code == 0x2014:  # one to three hyphens, one or two dashes
        end = at + 1
        most = at + 3 if code == 0x2D else at + 2
        while end < last and end < most and codes[end] == code:
            end += 1
        return end - at if end < last and classes[codes[end]] & LETTER else 0
    return 0


@njit(cache=True, nogil=True)
def _is_octet(codes: Any, first: int, last: int, place: int) -> bool:
    """Is this a number that spaCy takes for the part `place` (0-3) of an address? Digits of any script count as `\\d`."""
    length = last - first
    if length < 1 or length > 3:
        return False
    one = codes[first]
    two = codes[first + 1] if length > 1 else 0
    if place == 1 or place == 2:
        if length < 3:
            return True
        return one == 0x31 or (one == 0x32 and (0x30 <= two <= 0x34 or (two == 0x35 and 0x30 <= codes[last - 1] <= 0x35)))
    if length < 3:
        return 0x31 <= one <= 0x39
    if one == 0x31:
        return True
    if place == 0:
        return one == 0x32 and (two == 0x30 or two == 0x31 or (two == 0x32 and 0x30 <= codes[last - 1] <= 0x33))
    return one == 0x32 and (0x30 <= two <= 0x34 or (two == 0x35 and 0x30 <= codes[last - 1] <= 0x34))


@njit(cache=True, nogil=True)
def _equals(codes: Any, first: int, last: int, one: int, two: int, three: int) -> bool:
    return last - first == 3 and codes[first] == one and codes[first + 1] == two and codes[first + 2] == three


@njit(cache=True, nogil=True)
def _is_address(codes: Any, first: int, last: int, classes: Any) -> bool:
    """Is this an IPv4 address outside the private ranges?"""
    at = first
    ends = np.zeros(4, np.int64)
    for place in range(4):
        start = at
        while at < last and classes[codes[at]] & DECIMAL:
            at += 1
        if not _is_octet(codes, start, at, place):
            return False
        ends[place] = at
        if place < 3:
            if at >= last or codes[at] != 0x2E:
                return False
            at += 1
    if at != last:
        return False
    end = int(ends[0])
    second, second_end = end + 1, int(ends[1])
    if _equals(codes, first, end, 0x31, 0x32, 0x37) or (end - first == 2 and codes[first] == 0x31 and codes[first + 1] == 0x30):
        return False  # 127. and 10.
    if _equals(codes, first, end, 0x31, 0x36, 0x39) and _equals(codes, second, second_end, 0x32, 0x35, 0x34):
        return False
    if _equals(codes, first, end, 0x31, 0x39, 0x32) and _equals(codes, second, second_end, 0x31, 0x36, 0x38):
        return False
    if _equals(codes, first, end, 0x31, 0x37, 0x32) and second_end - second == 2:  # 172.16. to 172.31.
        tens, ones = codes[second], codes[second + 1]
        return not (
            (tens == 0x31 and 0x36 <= ones <= 0x39)
            or (tens == 0x32 and classes[ones] & DECIMAL)
            or (tens == 0x33 and 0x30 <= ones <= 0x31)
        )
    return True


@njit(cache=True, nogil=True)
def _is_host(codes: Any, first: int, last: int, classes: Any) -> bool:
    """Is this `label.label.tld`? Labels start and end with a letter or digit, the last one is of lower-case letters."""
    start = first
    n_labels = 0
    is_label = True
    for at in range(first, last):
        code = codes[at]
        if code == 0x2E:
            length = at - start
            if not is_label or length < 1 or length > 64:
                return False
            if not classes[codes[start]] & classes[codes[at - 1]] & URL_LETTER:
                return False
            n_labels += 1
            start = at + 1
        elif not (classes[code] & URL_LETTER or code == 0x2D or code == 0x5F):
            is_label = False
    if n_labels == 0 or last - start < 2 or last - start > 63:
        return False
    while start < last and classes[codes[start]] & LOWER:
        start += 1
    return start == last


@njit(cache=True, nogil=True)
def _is_host_and_path(codes: Any, first: int, last: int, classes: Any) -> bool:
    end = first
    while end < last and codes[end] != 0x3A and codes[end] != 0x2F and codes[end] != 0x3F and codes[end] != 0x23:
        if codes[end] == 0x40:
            return False  # and the next @ is tried from there on, so that all of them take linear time
        end += 1
    at = end
    if at < last and codes[at] == 0x3A:  # a port of two to five digits
        at += 1
        while at < last and classes[codes[at]] & DECIMAL:
            at += 1
        if at - end < 3 or at - end > 6:
            return False
        if at < last and codes[at] != 0x2F and codes[at] != 0x3F and codes[at] != 0x23:
            return False
    return _is_address(codes, first, end, classes) or _is_host(codes, first, end, classes)


@njit(cache=True, nogil=True)
def _is_url(codes: Any, first: int, last: int, classes: Any) -> bool:
    """Is this a URL as spaCy has it: scheme and user may be missing, a host is needed?"""
    has_dot = False
    for at in range(first, last):
        has_dot |= codes[at] == 0x2E
    if not has_dot:
        return False
    if _is_host_and_path(codes, first, last, classes):
        return True
    at = first
    while at < last and (classes[codes[at]] & WORD or codes[at] == 0x2B or codes[at] == 0x2D or codes[at] == 0x2E):
        at += 1
    has_scheme = at - first >= 2 and at + 2 < last and codes[at] == 0x3A and codes[at + 1] == 0x2F and codes[at + 2] == 0x2F
    if has_scheme and _is_host_and_path(codes, at + 3, last, classes):
        return True
    # Whatever stands before an @ may be the user; a scheme before it makes no difference.
    user = first + 1
    while user < last and not (codes[user] == 0x40 and _is_host_and_path(codes, user + 1, last, classes)):
        user += 1
    return user < last


@njit(cache=True, nogil=True)
def _put(codes: Any, first: int, last: int, n: int, firsts: Any, lasts: Any, hashes: Any, marks: Any) -> int:
    firsts[n], lasts[n] = first, last
    hashes[n] = hash_string(codes, first, last)
    marks[n] = 0
    return n + 1


@njit(cache=True, nogil=True)
def _put_exception(codes: Any, first: int, row: int, n: int, cuts: Any, firsts: Any, lasts: Any, hashes: Any, marks: Any) -> int:
    for word in range(cuts[row, 0]):
        last = first + cuts[row, 1 + word]
        n = _put(codes, first, last, n, firsts, lasts, hashes, marks)
        first = last
    return n


@njit(cache=True, nogil=True)
def _cut_piece(
    codes: Any,
    first: int,
    last: int,
    classes: Any,
    keys: Any,
    rows: Any,
    cuts: Any,
    n: int,
    firsts: Any,
    lasts: Any,
    hashes: Any,
    marks: Any,
    suffixes: Any,
) -> int:
    """Cut the piece codes[first:last], which has no white space; its words go to place n and on. Returns the next place."""
    n_suffixes = 0
    end = last
    row = _exception(codes, first, last, keys, rows)
    while row < 0 and first < last:
        prefix = _prefix(codes, first, last, classes)
        if prefix:
            row = _exception(codes, first + prefix, last, keys, rows)
            if row >= 0:
                n = _put(codes, first, first + prefix, n, firsts, lasts, hashes, marks)
                first += prefix
                break
        suffix = _suffix(codes, first + prefix, last, classes, keys)
        if suffix:
            row = _exception(codes, first, last - suffix, keys, rows)
        if prefix and row < 0:
            n = _put(codes, first, first + prefix, n, firsts, lasts, hashes, marks)
            first += prefix
        if suffix:
            last -= suffix
            suffixes[n_suffixes] = last
            n_suffixes += 1
        if row >= 0 or not (prefix or suffix):
            break
        row = _exception(codes, first, last, keys, rows)
    if row >= 0:
        n = _put_exception(codes, first, row, n, cuts, firsts, lasts, hashes, marks)
    elif first < last:
        n = _cut_rest(codes, first, last, classes, n, firsts, lasts, hashes, marks)
    while n_suffixes:
        n_suffixes -= 1
        suffix_end = suffixes[n_suffixes - 1] if n_suffixes else end
        n = _put(codes, suffixes[n_suffixes], suffix_end, n, firsts, lasts, hashes, marks)
    return n


@njit(cache=True, nogil=True)
def _cut_rest(codes: Any, first: int, last: int, classes: Any, n: int, firsts: Any, lasts: Any, hashes: Any, marks: Any) -> int:
    """Cut what affixes leave at its infixes, unless it is a URL."""
    if _is_url(codes, first, last, classes):
        return _put(codes, first, last, n, firsts, lasts, hashes, marks)
    start = at = first
    while at < last:
        if classes[codes[at]] & PLAIN == LETTER:
            at += 1
            continue
        length = _infix(codes, first, last, at, classes)
        if length and at > first:
            if at > start:
                n = _put(codes, start, at, n, firsts, lasts, hashes, marks)
            n = _put(codes, at, at + length, n, firsts, lasts, hashes, marks)
            start = at + length
        at += max(length, 1)
    return _put(codes, start, last, n, firsts, lasts, hashes, marks) if start < last else n


@njit(cache=True, nogil=True)
def _cut_text(
    codes: Any,
    first: int,
    last: int,
    classes: Any,
    keys: Any,
    rows: Any,
    cuts: Any,
    keeps_space: bool,
    n: int,
    firsts: Any,
    lasts: Any,
    hashes: Any,
    marks: Any,
    suffixes: Any,
) -> int:
    """Cut a text at white space and each piece into words, which go to place n and on. Returns the next place."""
    at = first
    while at < last:
        start = at
        wide = 0
        while at < last and classes[codes[at]] & SPACE:
            at += 1
        if start < at and codes[start] == 0x20 and start > first:
            start += 1  # the blank that only parts two pieces; more white space than it would be a word
        if start < at:
            wide = PARTED
            if keeps_space:
                n = _put(codes, start, at, n, firsts, lasts, hashes, marks)
        start = at
        key = before = ZERO
        n_plain = n_digits = 0
        bits = previous = np.uint32(0)
        while at < last:
            bits = classes[codes[at]]
            if bits & SPACE:
                break
            if bits & PLAIN == LETTER:
                n_plain += 1
                previous = bits
            elif _is_digit(codes[at]):
                n_digits += 1
            before = key
            key = key * BASE + (np.uint64(codes[at]) + ONE)
            at += 1
        if start == at:
            break
        place = n
        is_simple = n_plain + n_digits == at - start and (n_digits == 0 or _is_digit(codes[at - 1]))
        if is_simple and (at - start > LONGEST_EXCEPTION or _find(keys, key ^ EXCEPTION) < 0):
            firsts[n], lasts[n], hashes[n], marks[n] = start, at, key, SIMPLE
            n += 1
        elif at - start == 1:
            firsts[n], lasts[n], hashes[n], marks[n] = start, at, key, 0
            n += 1
        elif (
            0 < n_plain == at - start - 1
            and _ends_plainly(codes[at - 1])
            and (codes[at - 1] != 0x2E or previous & LOWER)
            and _find(keys, key ^ EXCEPTION) < 0
            and _find(keys, before ^ EXCEPTION) < 0
        ):
            # Letters and one mark, the most frequent of the other pieces.
            firsts[n], lasts[n], hashes[n], marks[n] = start, at - 1, before, SIMPLE
            firsts[n + 1], lasts[n + 1], hashes[n + 1], marks[n + 1] = at - 1, at, np.uint64(codes[at - 1]) + ONE, 0
            n += 2
        else:
            n = _cut_piece(codes, start, at, classes, keys, rows, cuts, n, firsts, lasts, hashes, marks, suffixes)
        marks[place] |= wide
    return n


@njit(cache=True, nogil=True)
def _ends_plainly(code: Any) -> bool:
    """, . : ; ! ?"""
    return code == 0x2C or code == 0x2E or code == 0x3A or code == 0x3B or code == 0x21 or code == 0x3F


@njit(cache=True, nogil=True)
def _spelt_lengths(word: int, n: int, keys: Any, rows: Any, hashes: Any, marks: Any) -> int:
    """A bit for every number of words that from `word` on spell an exception."""
    slot = _find(keys, hashes[word] ^ OPENING)
    if slot < 0:
        return 0
    lengths = 0
    joint = ZERO
    for step in range(min(rows[slot], n - word)):
        if step and marks[word + step] & PARTED:
            break
        joint = join_hashes(joint, hashes[word + step])
        if step and _find(keys, joint ^ SPELT) >= 0:
            lengths |= 1 << (step + 1)
    return lengths


@njit(cache=True, nogil=True)
def _spelt_row(word: int, length: int, keys: Any, rows: Any, hashes: Any) -> int:
    joint = ZERO
    for step in range(length):
        joint = join_hashes(joint, hashes[word + step])
    return int(rows[_find(keys, joint ^ SPELT)])


@njit(cache=True, nogil=True)
def _find_spelt(
    base: int,
    n: int,
    keys: Any,
    rows: Any,
    cuts: Any,
    firsts: Any,
    lasts: Any,
    hashes: Any,
    marks: Any,
    spelt: Any,
    taken: Any,
    matches: Any,
) -> int:
    """Mark in spelt[first word - base] the words that together spell an exception: its row in the upper, their number in
    the lower bits.

    Longer ones win, then those further left; words that only a blank parts count as spelling it too, and keep others
    from it, but stay as they are. Returns how many words the exceptions have beyond those that spell them, -1 without any.
    """
    n_matches = all_lengths = growth = 0
    for word in range(base, n - 1):
        if marks[word] & marks[word + 1] & SIMPLE:
            continue
        lengths = _spelt_lengths(word, n, keys, rows, hashes, marks)
        if lengths:
            matches[n_matches, 0], matches[n_matches, 1] = word, lengths
            n_matches += 1
            all_lengths |= lengths
    if n_matches == 0:
        return -1
    spelt[: n - base] = -1
    taken[: n - base] = False
    for length in range(MOST_SPELT, 1, -1):
        if not all_lengths & 1 << length:
            continue
        for match in range(n_matches):
            word = matches[match, 0]
            if not matches[match, 1] & 1 << length:
                continue
            is_free = not taken[word - base] and not taken[word - base + length - 1]
            is_joined = True
            for step in range(length):
                taken[word - base + step] = True
                is_joined = is_joined and (step == 0 or lasts[word + step - 1] == firsts[word + step])
            if is_free and is_joined:
                row = _spelt_row(word, length, keys, rows, hashes)
                spelt[word - base] = row << 8 | length
                growth += max(cuts[row, 0] - length, 0)
    return growth


@njit(cache=True, nogil=True)
def _respell(
    codes: Any, base: int, n: int, growth: int, spelt: Any, cuts: Any, firsts: Any, lasts: Any, hashes: Any, marks: Any
) -> int:
    """Replace what spells exceptions by them. The words lie `growth` places further up, so that none is overwritten unread."""
    word = out = base
    while word < n:
        at = word + growth
        if spelt[word - base] >= 0:
            row, length = spelt[word - base] >> 8, spelt[word - base] & 0xFF
            out = _put_exception(codes, firsts[at], row, out, cuts, firsts, lasts, hashes, marks)
            word += length
        else:
            firsts[out], lasts[out], hashes[out] = firsts[at], lasts[at], hashes[at]
            out += 1
            word += 1
    return out


@njit(cache=True, nogil=True)
def cut_words(
    codes: Any, starts: Any, tables: Any, keeps_space: bool, firsts: Any, lasts: Any, hashes: Any, marks: Any, ends: Any
) -> None:
    """Write the words of document d, codes[starts[d]:starts[d + 1]], to the places from ends[d] up to ends[d + 1].

    `firsts` and `lasts` (int32) are positions in `codes`, `hashes` (uint64) polynomials of the words' code points; they
    and `marks` (uint8, for this function's own use) have room for every code point. White space that spaCy keeps as
    words is left out unless `keeps_space`.
    """
    classes, keys, rows, cuts = tables.classes, tables.keys, tables.rows, tables.cuts
    most = 0
    for document in range(len(starts) - 1):
        most = max(most, starts[document + 1] - starts[document])
    suffixes, spelt, taken = np.empty(most, np.int32), np.empty(most, np.int32), np.empty(most, np.bool_)
    matches = np.empty((most, 2), np.int32)
    n = 0
    ends[0] = 0
    for document in range(len(starts) - 1):
        base, start, end = n, starts[document], starts[document + 1]
        n = _cut_text(codes, start, end, classes, keys, rows, cuts, keeps_space, base, firsts, lasts, hashes, marks, suffixes)
        growth = _find_spelt(base, n, keys, rows, cuts, firsts, lasts, hashes, marks, spelt, taken, matches)
        if growth >= 0:
            for word in range(n - 1, base - 1 if growth else n - 1, -1):
                to = word + growth
                firsts[to], lasts[to], hashes[to] = firsts[word], lasts[word], hashes[word]
            n = _respell(codes, base, n, growth, spelt, cuts, firsts, lasts, hashes, marks)
        ends[document + 1] = n
