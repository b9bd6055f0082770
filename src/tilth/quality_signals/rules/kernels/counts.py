"""Compiled loops over code points and words: what Gopher's rules compare, as datatrove's two filters compute it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from tilth.quality_signals.rules.characters import ALPHABETIC, LINE_BREAK, SPACE, SYMBOL

# Columns of `count_words`.
N_WORDS, N_COUNTED, N_COUNTED_CHARS, N_HASHES, N_ELLIPSES, N_LINES, N_BULLETS, N_ELLIPSIS_ENDS, N_ALPHABETIC, N_STOPS = range(10)
# Columns of `count_repeated_parts`.
N_PARAGRAPHS, N_SAME_PARAGRAPHS, SAME_PARAGRAPH_CHARS, N_PARTS, N_SAME_PARTS, SAME_PART_CHARS = range(6)
# Columns of `count_spaced`.
D_WORDS, D_CHARS, D_SYMBOLS, D_ALPHABETIC, D_STOPS, D_LINES, D_BULLETS, D_ELLIPSIS_ENDS, D_SAME_LINES, D_SAME_LINE_CHARS = range(
    10
)
D_REPEATS = 10
PROBE = 20  # characters by which repeated n-grams are looked for

BASE = np.uint64(0x9E3779B97F4A7C15)  # that of the words' hashes
MIX = np.uint64(0xD6E8FEB86659FD93)
ZERO, ONE, HALF = np.uint64(0), np.uint64(1), np.uint64(32)


@njit(cache=True, nogil=True)
def count_words(
    codes: Any, starts: Any, firsts: Any, lasts: Any, hashes: Any, ends: Any, classes: Any, stops: Any, out: Any
) -> None:
    """Fill `out` (int64, texts x 10) with the counts named above; `stops` are the hashes of the stop words."""
    for text in range(len(starts) - 1):
        row = out[text]
        row[N_WORDS] = ends[text + 1] - ends[text]
        _count_words(codes, firsts, lasts, hashes, ends[text], ends[text + 1], classes, stops, row)
        _count_symbols(codes, starts[text], starts[text + 1], row)
        _count_lines(codes, starts[text], starts[text + 1], classes, row)


@njit(cache=True, nogil=True)
def _count_words(
    codes: Any, firsts: Any, lasts: Any, hashes: Any, word: int, end: int, classes: Any, stops: Any, row: Any
) -> None:
    n_counted = n_chars = n_alphabetic = seen = 0
    while word < end:
        first, last = firsts[word], lasts[word]
        bits = classes[codes[first]]
        counts = not bits & SYMBOL
        alphabetic = (bits & ALPHABETIC) != 0
        at = first + 1
        while at < last and not (counts and alphabetic):
            bits = classes[codes[at]]
            counts = counts or not bits & SYMBOL
            alphabetic = alphabetic or (bits & ALPHABETIC) != 0
            at += 1
        if counts:
            n_counted += 1
            n_chars += last - first
        n_alphabetic += alphabetic
        if last - first < 5:
            for stop in range(len(stops)):
                if hashes[word] == stops[stop]:
                    seen |= 1 << stop
        word += 1
    n_stops = 0
    for stop in range(len(stops)):
        n_stops += seen >> stop & 1
    row[N_COUNTED], row[N_COUNTED_CHARS], row[N_ALPHABETIC], row[N_STOPS] = n_counted, n_chars, n_alphabetic, n_stops


@njit(cache=True, nogil=True)
def _count_symbols(codes: Any, first: int, last: int, row: Any) -> None:
    n_hashes = n_ellipses = n_dots = 0
    for at in range(first, last):
        code = codes[at]
        if code == 0x2E:
            n_dots += 1
            continue
        n_ellipses += n_dots // 3 + (code == 0x2026)
        n_dots = 0
        n_hashes += code == 0x23
    row[N_HASHES], row[N_ELLIPSES] = n_hashes, n_ellipses + n_dots // 3


@njit(cache=True, nogil=True)
def _count_lines(codes: Any, first: int, last: int, classes: Any, row: Any) -> None:
    """Lines as str.splitlines has them: how many, and how many start with a bullet or end with an ellipsis."""
    n_lines = n_bullets = n_ends = 0
    at = first
    while at < last:
        opening = closing = -1
        n_dots = 0
        while at < last and not classes[codes[at]] & LINE_BREAK:
            code = int(codes[at])
            if not classes[codes[at]] & SPACE:
                opening = code if opening < 0 else opening
                n_dots = (n_dots + 1 if codes[at - 1] == 0x2E else 1) if code == 0x2E else 0
                closing = code
            at += 1
        n_lines += 1
        n_bullets += opening == 0x2022 or opening == 0x2D
        n_ends += n_dots > 2 or closing == 0x2026
        at += 2 if at + 1 < last and codes[at] == 0x0D and codes[at + 1] == 0x0A else 1
    row[N_LINES], row[N_BULLETS], row[N_ELLIPSIS_ENDS] = n_lines, n_bullets, n_ends


@njit(cache=True, nogil=True)
def _add(keys: Any, values: Any, mask: int, key: Any, value: int) -> Any:
    """Let `key` have `value` unless it has one; returns the slot. Values are positive, and 0 marks a free slot."""
    mixed = (key ^ (key >> HALF)) * MIX
    slot = np.int64((mixed ^ (mixed >> HALF)) & np.uint64(mask))
    while values[slot] and keys[slot] != key:
        slot = (slot + 1) & mask
    if not values[slot]:
        keys[slot] = key
        values[slot] = value
    return slot


@njit(cache=True, nogil=True)
def _mask_for(n: int) -> int:
    """A power of two less one, at least four thirds of `n`, and of few items twice."""
    size = 16
    while size < 2 * n if n < 1 << 16 else 3 * size < 4 * n:
        size *= 2
    return size - 1


@njit(cache=True, nogil=True)
def count_repeated_parts(codes: Any, starts: Any, classes: Any, out: Any) -> None:
    """Fill `out` (int64, texts x 6): paragraphs and lines that were seen before in their text, and their characters."""
    most = 1
    for text in range(len(starts) - 1):
        most = max(most, starts[text + 1] - starts[text])
    mask = _mask_for(most // 2 + 2)
    keys, values = np.empty(mask + 1, np.uint64), np.zeros(mask + 1, np.uint8)
    for text in range(len(starts) - 1):
        first, last = starts[text], starts[text + 1]
        n, n_same, chars = _repeated(codes, first, last, 1, keys, values)
        out[text, N_PARTS], out[text, N_SAME_PARTS], out[text, SAME_PART_CHARS] = n, n_same, chars
        while first < last and classes[codes[first]] & SPACE:
            first += 1
        while first < last and classes[codes[last - 1]] & SPACE:
            last -= 1
        n, n_same, chars = _repeated(codes, first, last, 2, keys, values)
        out[text, N_PARAGRAPHS], out[text, N_SAME_PARAGRAPHS], out[text, SAME_PARAGRAPH_CHARS] = n, n_same, chars


@njit(cache=True, nogil=True)
def _repeated(codes: Any, first: int, last: int, n_feeds: int, keys: Any, values: Any) -> tuple[int, int, int]:
    """Number of parts between runs of at least `n_feeds` line feeds, of those seen before, and of the characters of these."""
    n_parts = 1
    at = first
    while at < last:
        n_parts += codes[at] == 0x0A and (at == first or codes[at - 1] != 0x0A)
        at += 1
    mask = _mask_for(n_parts)
    values[: mask + 1] = 0
    n = n_same = chars = 0
    start = at = first
    key = ZERO
    while True:
        feeds = at
        while feeds < last and codes[feeds] == 0x0A:
            feeds += 1
        if at == last or feeds - at >= n_feeds:
            n += 1
            # The length tells apart what the polynomial might not.
            slot = _add(keys, values, mask, key ^ np.uint64(at - start) * MIX, 1)
            if values[slot] == 2:
                n_same += 1
                chars += at - start
            values[slot] = 2
            if at == last:
                return n, n_same, chars
            start = at = feeds
            key = ZERO
        else:
            key = key * BASE + (np.uint64(codes[at]) + ONE)
            at += 1


@njit(cache=True, nogil=True)
def count_repeated_words(codes: Any, hashes: Any, firsts: Any, lasts: Any, ends: Any, tops: Any, dupes: Any) -> None:
    """Characters in the most frequent n-gram (`tops`, int64, texts x 3, n = 2-4, blanks between words counted, 0 for none)
    and in n-grams seen before (`dupes`, int64, texts x 6, n = 5-10, each after the one before it, without blanks).
    """
    most = most_chars = 1
    for text in range(len(ends) - 1):
        most = max(most, ends[text + 1] - ends[text])
        n_chars = 0
        for word in range(ends[text], ends[text + 1]):
            n_chars += lasts[word] - firsts[word]
        most_chars = max(most_chars, n_chars)
    mask = _mask_for(most)
    keys, values, slots = np.empty(mask + 1, np.uint64), np.empty(mask + 1, np.int32), np.empty(most, np.int32)
    grams, probes = np.empty(most, np.uint64), np.empty(most_chars + 1, np.uint64)
    lengths, live = np.empty(most + 1, np.int32), np.empty(most + 1, np.bool_)
    unused = np.empty(11, np.int64)
    for text in range(len(ends) - 1):
        first, last = ends[text], ends[text + 1]
        lengths[0], probes[0] = 0, ZERO
        for word in range(last - first):
            length = lasts[first + word] - firsts[first + word]
            at = lengths[word]
            for step in range(length):
                probes[at + step + 1] = probes[at + step] * BASE + (np.uint64(codes[firsts[first + word] + step]) + ONE)
            lengths[word + 1] = at + length
        _sequences(hashes[first:last], lengths, 2, 4, 1, tops[text], unused, grams, live, slots, keys, values)
        _mark_probes(last - first, lengths, probes, live, slots, keys, values)
        for n in range(5, 11):
            dupes[text, n - 5] = _dupe(last - first, lengths, probes, live, n, keys, values)


@njit(cache=True, nogil=True)
def _power(exponent: int) -> Any:
    """BASE to the power of `exponent`, modulo 2**64."""
    found, base = ONE, BASE
    while exponent:
        if exponent & 1:
            found *= base
        base *= base
        exponent >>= 1
    return found


@njit(cache=True, nogil=True)
def _sequences(
    hashes: Any,
    lengths: Any,
    least: int,
    largest: int,
    blank: int,
    tops: Any,
    repeated: Any,
    grams: Any,
    live: Any,
    slots: Any,
    keys: Any,
    values: Any,
) -> None:
    """For n from `least` to `largest` the characters of the most frequent n-gram times its number, into tops[n - 2] (n = 2-4),
    and of all occurrences of n-grams that occur again, into repeated[n]. Longer ones can only repeat where shorter ones do.
    """
    n_words = len(hashes)
    for n in range(least, largest + 1):
        n_grams = n_words - n + 1
        if 2 <= n <= 4:
            tops[n - 2] = lengths[n] + (n - 1) * blank if n_grams > 0 else 0
        repeated[n] = 0
        n_live = 0
        for at in range(n_grams):
            if n == least:
                grams[at] = hashes[at]
                for step in range(1, n):
                    grams[at] = _joined(grams[at], hashes[at + step])
                live[at] = True
            else:
                live[at] = live[at] and live[at + 1]
                if live[at]:
                    grams[at] = _joined(grams[at], hashes[at + n - 1])
            n_live += live[at]
        live[max(n_grams, 0)] = False
        if n_live == 0:
            continue
        mask = _mask_for(n_live)
        values[: mask + 1] = 0
        most = 0
        for at in range(n_grams):
            if live[at]:
                slot = _add(keys, values, mask, grams[at], 1)
                most = max(most, values[slot])
                values[slot] += 1
                slots[at] = slot
        is_top = 2 <= n <= 4 and most > 1
        for at in range(n_grams):
            if live[at]:
                count = values[slots[at]] - 1
                length = lengths[at + n] - lengths[at]
                if is_top and count == most:  # the first seen of the most frequent
                    tops[n - 2] = (length + (n - 1) * blank) * most
                    is_top = False
                live[at] = count > 1
                repeated[n] += length if count > 1 else 0


@njit(cache=True, nogil=True)
def _joined(key: Any, word: Any) -> Any:
    key = (key ^ (key >> HALF)) * MIX  # first, so that the order of words matters
    key = (key ^ word) * BASE
    return key ^ (key >> HALF)


@njit(cache=True, nogil=True)
def _mark_probes(n_words: int, lengths: Any, joined: Any, live: Any, slots: Any, keys: Any, values: Any) -> None:
    """Let live[at] tell whether the PROBE characters from word `at` on, blanks left out, also start at another word."""
    mask, power = _mask_for(n_words), _power(PROBE)
    values[: mask + 1] = 0
    for at in range(n_words):
        start = lengths[at]
        slots[at] = -1
        if start + PROBE <= lengths[n_words]:
            slots[at] = _add(keys, values, mask, joined[start + PROBE] - joined[start] * power, 1)
            values[slots[at]] += 1
    for at in range(n_words):
        live[at] = slots[at] >= 0 and values[slots[at]] > 2


@njit(cache=True, nogil=True)
def _dupe(n_words: int, lengths: Any, joined: Any, live: Any, n: int, keys: Any, values: Any) -> int:
    """datatrove compares the joined words, so that what is cut elsewhere but reads the same counts as the same.

    An n-gram of PROBE characters or more can only be seen again where its first characters are.
    """
    if n_words < n:
        return 0
    n_live = 0
    for at in range(n_words - n + 1):
        n_live += live[at] or lengths[at + n] - lengths[at] < PROBE
    if n_live < 2:
        return 0
    mask = _mask_for(n_live)
    values[: mask + 1] = 0
    at = chars = 0
    while at + n <= n_words:
        length = lengths[at + n] - lengths[at]
        if not live[at] and length >= PROBE:
            at += 1
            continue
        key = (joined[lengths[at + n]] - joined[lengths[at]] * _power(length)) ^ np.uint64(length) * MIX
        slot = _add(keys, values, mask, key, 1)
        if values[slot] == 2:
            chars += length
            at += n
        else:
            values[slot] = 2
            at += 1
    return int(chars)


@njit(cache=True, nogil=True)
def count_spaced(
    codes: Any, starts: Any, classes: Any, stops: Any, out: Any, medians: Any, tops: Any, repeated: Any, gram_chars: Any
) -> None:
    """dolma's counts of words between white space: `out` (int64, texts x 11, columns named below), `medians` (float64) of their
    lengths, `tops` as above without blanks, and for n = 0-10 characters in n-grams that repeat and in all n-grams.
    """
    most = 1
    for text in range(len(starts) - 1):
        most = max(most, starts[text + 1] - starts[text])
    room = most // 2 + 2
    mask = _mask_for(room)
    keys, values, slots = np.empty(mask + 1, np.uint64), np.empty(mask + 1, np.int32), np.empty(room, np.int32)
    hashes, grams = np.empty(room, np.uint64), np.empty(room, np.uint64)
    lengths, live, histogram = np.empty(room + 1, np.int32), np.empty(room + 1, np.bool_), np.zeros(most + 1, np.int32)
    for text in range(len(starts) - 1):
        row = out[text]
        n = _spaced_words(codes, starts[text], starts[text + 1], classes, stops, row, hashes, lengths)
        medians[text] = _median_length(n, lengths, histogram)
        tops[text] = 0
        repeated[text] = gram_chars[text] = 0
        row[D_REPEATS] = _most_repeats(n, hashes)
        _sequences(hashes[:n], lengths, 1, 10, 0, tops[text], repeated[text], grams, live, slots, keys, values)
        for size in range(5, 11):
            for at in range(n - size + 1):
                gram_chars[text, size] += lengths[at + size] - lengths[at]
        _spaced_lines(codes, starts[text], starts[text + 1], row, keys, values, slots, grams)


@njit(cache=True, nogil=True)
def _spaced_words(codes: Any, at: int, last: int, classes: Any, stops: Any, row: Any, hashes: Any, lengths: Any) -> int:
    n = n_symbols = n_alphabetic = n_stops = 0
    lengths[0] = 0
    while at < last:
        while at < last and classes[codes[at]] & SPACE:
            at += 1
        start = at
        key = ZERO
        has_symbol = has_letter = False
        while at < last and not classes[codes[at]] & SPACE:
            code = codes[at]
            has_symbol = has_symbol or code == 0x23 or code == 0x2026
            has_letter = has_letter or (classes[code] & ALPHABETIC) != 0
            key = key * BASE + (np.uint64(code) + ONE)
            at += 1
        if at == start:
            break
        hashes[n] = key
        n += 1
        lengths[n] = lengths[n - 1] + at - start
        n_symbols += has_symbol
        n_alphabetic += has_letter
        if at - start < 5:
            for stop in range(len(stops)):
                n_stops += key == stops[stop]
    row[D_WORDS], row[D_CHARS], row[D_SYMBOLS], row[D_ALPHABETIC], row[D_STOPS] = n, lengths[n], n_symbols, n_alphabetic, n_stops
    return n


@njit(cache=True, nogil=True)
def _median_length(n: int, lengths: Any, histogram: Any) -> float:
    if n == 0:
        return 0.0
    longest = 0
    for word in range(n):
        length = lengths[word + 1] - lengths[word]
        histogram[length] += 1
        longest = max(longest, length)
    seen = low = high = 0
    for length in range(longest + 1):
        if histogram[length]:
            low = length if seen <= (n - 1) // 2 else low
            high = length if seen <= n // 2 else high
        seen += histogram[length]
        histogram[length] = 0
    return (low + high) / 2


@njit(cache=True, nogil=True)
def _most_repeats(n: int, hashes: Any) -> int:
    """How often in a row the same 1 to 13 words come, at most; below three it is no repetition."""
    most = 0
    for period in range(1, 14):
        run = 0
        for word in range(period, n):
            run = run + 1 if hashes[word] == hashes[word - period] else 0
            most = max(most, run // period + 1)
    return most if most > 2 else 0


@njit(cache=True, nogil=True)
def _spaced_lines(codes: Any, first: int, last: int, row: Any, keys: Any, values: Any, slots: Any, grams: Any) -> None:
    """Lines between line feeds, the empty ones too: how many, with a bullet, with an ellipsis; those that occur again."""
    n_feeds = 0
    for at in range(first, last):
        n_feeds += codes[at] == 0x0A
    n_bullets = n_ends = n_empty = n_full = n_same = 0
    same_chars = np.int64(0)
    mask = _mask_for(min(n_feeds + 1, (last - first) // 2 + 1))
    values[: mask + 1] = 0
    start = first
    key = ZERO
    for at in range(first, last + 1):
        if at < last and codes[at] != 0x0A:
            key = key * BASE + (np.uint64(codes[at]) + ONE)
            continue
        if at == start:
            n_empty += 1
        else:
            n_bullets += codes[start] == 0x2A or codes[start] == 0x2D
            n_ends += codes[at - 1] == 0x2026
            slot = _add(keys, values, mask, key ^ np.uint64(at - start) * MIX, 1)
            values[slot] += 1
            slots[n_full], grams[n_full] = slot, np.uint64(at - start)
            n_full += 1
        start = at + 1
        key = ZERO
    for line in range(n_full):
        if values[slots[line]] > 2:
            n_same += 1
            same_chars += np.int64(grams[line])
    n_same += n_empty if n_empty > 1 else 0
    row[D_LINES], row[D_BULLETS], row[D_ELLIPSIS_ENDS] = n_full + n_empty, n_bullets, n_ends
    row[D_SAME_LINES], row[D_SAME_LINE_CHARS] = n_same, same_chars
