"""Compiled loops over words: those of normal forms, numbered by first occurrence, and look-ups of words and phrases in lists.

The normal form is RedPajama-V2's: without ASCII punctuation, lower case, canonically decomposed. Words part at white space.
All that makes or compares keys of words is in this file: compiled code is only made anew when its own file changes.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit

from tilth.quality_signals.fused.kernels.raw import decode

# The bits of `code_points`, again: compiled code freezes them, and is only compiled again when this very file changes.
UPPER, LOWER_OR_TITLE, WORD, SPACE, PYTHON_SPACE, NUMERIC, PUNCTUATION = (1 << bit for bit in (0, 1, 2, 3, 4, 6, 7))
MAPPED, CONTEXTUAL, CASE_IGNORABLE = (1 << bit for bit in (8, 9, 12))
FIRST_CLASS, LAST_CLASS = 16, 24
A, Z = 0x61, 0x7A  # ASCII's small letters
# Columns of the documents' counts.
N_WORDS, N_DISTINCT, N_WORD_CHARS, N_LOREM_IPSUM = range(4)
# Columns of the lines' counts.
LINE_WORDS, LINE_CHARS, LINE_NUMERIC, LINE_JAVASCRIPT = range(4)
LOREM = np.frombuffer(b"lorem", np.uint8)
IPSUM = np.frombuffer(b"ipsum", np.uint8)
JAVASCRIPT = np.frombuffer(b"javascript", np.uint8)
_MIX, _SPREAD = np.uint64(0xD6E8FEB86659FD93), np.uint64(0x9E3779B97F4A7C15)
_ZERO, _BYTE, _HALF = np.uint64(0), np.uint64(8), np.uint64(32)
N_HINTS = 4096
_FIRST_SLOTS = 1 << 12  # tables start no larger, and grow


@njit(cache=True, nogil=True)
def index_words(
    data: Any, offsets: Any, firsts: Any, tables: Any, normal: Any, ids: Any, ends: Any, distinct: Any, documents: Any,
    entropies: Any, lines: Any,
) -> None:  # fmt: skip
    """Write the normal form of each document into `normal` (uint8, without white space), and number its words.

    `tables` are those of CodePoints. `ids` (int32) takes each word's number, `ends` (int64, 2 x documents + 1) how many words,
    and how many distinct ones, come before each document, `distinct` a row for each of these (a DistinctWords). `documents`
    (int64, documents x 4), `entropies` (float64; nats) and, for documents that have lines in `firsts`, `lines` (int32, 4 x
    lines) are as named above.
    """
    slots = np.empty(_FIRST_SLOTS, np.int32)
    terms = np.empty(32, np.float64)
    written = n_words = n_distinct = 0
    for document in range(len(offsets) - 1):
        ends[0, document], ends[1, document] = n_words, n_distinct
        span, of_lines = (offsets[document], offsets[document + 1]), (firsts[document], firsts[document + 1])
        slots, written = _index(
            data, span, of_lines, tables, normal, written, ids, n_words, distinct, n_distinct, slots, documents[document], lines
        )
        n_words += documents[document, N_WORDS]
        n_distinct += documents[document, N_DISTINCT]
        entropies[document] = _entropy(distinct.counts[ends[1, document] : n_distinct], documents[document, N_WORDS], terms)
    ends[0, len(offsets) - 1], ends[1, len(offsets) - 1] = n_words, n_distinct


@njit(cache=True, nogil=True)
def _index(
    data: Any, span: Any, of_lines: Any, tables: Any, normal: Any, written: int, ids: Any, first_word: int, distinct: Any,
    first_distinct: int, slots: Any, out: Any, lines: Any,
) -> Any:  # fmt: skip
    """One document; returns the slots, which may have grown, and the end of what was written.

    One long loop over plain variables: cut into functions, it takes half as long again.
    """
    info, places, pool = tables
    starts, sizes, lengths, counts, keys = distinct  # a tuple's arrays are not taken from it in the loop: that costs more
    at, end = span
    line, last_line = of_lines
    n_slots = 64
    while n_slots < len(slots) and 4 * n_slots < end - at:
        n_slots *= 2
    slots[:n_slots] = -1
    n_words = n_distinct = n_doc_chars = n_plain = n_folded = 0
    line_words = line_chars = line_numeric = line_javascript = 0
    start, n_chars, last_class = written, 0, 0
    before = written  # where the word before this one starts
    key = packed = _ZERO
    is_ordered = True
    while at <= end:
        here = at
        code, bits = 0x0A, PYTHON_SPACE  # a text ends its last line
        if at < end:
            code, at = decode(data, at)
            bits = int(info[code])
        else:
            at += 1
        if bits & PYTHON_SPACE:
            if written > start:
                if not is_ordered:
                    _order_marks(normal, start, written, info)
                    key, packed = _rehash(normal, start, written)
                key = _finish(key, packed)
                size = written - start
                found = _find(normal, start, size, key, starts, sizes, keys, first_distinct, slots, n_slots)
                number = slots[found]
                if number < 0:
                    number = n_distinct
                    slots[found] = number
                    place = first_distinct + number
                    starts[place], sizes[place], lengths[place], counts[place], keys[place] = start, size, n_chars, 0, key
                    n_distinct += 1
                    if 2 * n_distinct > n_slots:
                        n_slots *= 2
                        slots = _grown(slots, n_slots, keys[first_distinct : first_distinct + n_distinct])
                ids[first_word + n_words] = number
                counts[first_distinct + number] += 1
                n_words += 1
                line_words += 1
                line_chars += n_chars
                if size >= 5 and start - before >= 5 and is_same(normal, start - 5, LOREM, 0, 5):
                    is_plain = is_same(normal, start, IPSUM, 0, 5)
                    n_plain += is_plain
                    n_folded += not is_plain and _folds_to_ipsum(normal, start, written)
                if size == 10 and normal[start] == 0x6A:
                    line_javascript += is_same(normal, start, JAVASCRIPT, 0, 10)
                before, start, n_chars, last_class = start, written, 0, 0
                key = packed = _ZERO
                is_ordered = True
            if code == 0x0A:
                if line < last_line:
                    lines[LINE_WORDS, line], lines[LINE_CHARS, line] = line_words, line_chars + max(line_words - 1, 0)
                    lines[LINE_NUMERIC, line], lines[LINE_JAVASCRIPT, line] = line_numeric, line_javascript
                    line += 1
                n_doc_chars += line_chars
                line_words = line_chars = line_numeric = line_javascript = 0
            continue
        if bits & PUNCTUATION:
            continue
        first_class = bits >> FIRST_CLASS & 0xFF
        is_ordered = is_ordered and (first_class == 0 or first_class >= last_class)
        last_class = bits >> LAST_CLASS & 0xFF
        if bits & MAPPED:
            place = places[code]
            n_chars += pool[place + 1]
            line_numeric += pool[place + 2]
            for step in range(place + 3, place + 3 + pool[place]):
                normal[written] = pool[step]
                packed = packed << _BYTE | np.uint64(pool[step])
                written += 1
                if (written - start) & 7 == 0:
                    key, packed = _mixed(key ^ packed), _ZERO
            if bits & CONTEXTUAL and _is_final(data, span, here, at, info):
                normal[written - 1] -= 1  # the final sigma is the code point before the other
                if (written - start) & 7:
                    packed -= np.uint64(1)
                else:
                    is_ordered = False  # its byte is mixed in already: the key is made again when the word ends
            continue
        n_chars += 1
        line_numeric += (bits & NUMERIC) != 0
        for step in range(here, at):
            normal[written] = data[step]
            packed = packed << _BYTE | np.uint64(data[step])
            written += 1
            if (written - start) & 7 == 0:
                key, packed = _mixed(key ^ packed), _ZERO
        if A <= code <= Z:
            run = at
            while at < end and A <= data[at] <= Z:
                at += 1
            n_chars += at - run
            for step in range(run, at):
                normal[written] = data[step]
                packed = packed << _BYTE | np.uint64(data[step])
                written += 1
                if (written - start) & 7 == 0:
                    key, packed = _mixed(key ^ packed), _ZERO
    out[N_WORDS], out[N_DISTINCT], out[N_WORD_CHARS] = n_words, n_distinct, n_doc_chars
    # The published code counts without regard to case, but only where the plain words occur too.
    out[N_LOREM_IPSUM] = n_plain + n_folded if n_plain else 0
    return slots, written


@njit(cache=True, nogil=True)
def _mixed(key: Any) -> Any:
    """Spread the bits of a 64-bit value; a bijection."""
    key = key * _MIX
    return key ^ key >> _HALF


@njit(cache=True, nogil=True)
def _finish(key: Any, packed: Any) -> Any:
    """The key of a word: every eight bytes are mixed in at once, so that words of up to eight bytes share no key of one size."""
    return _mixed(key ^ packed)


@njit(cache=True, nogil=True)
def _rehash(data: Any, start: int, end: int) -> tuple[Any, Any]:
    key = packed = _ZERO
    for at in range(start, end):
        packed = packed << _BYTE | np.uint64(data[at])
        if (at - start) & 7 == 7:
            key, packed = _mixed(key ^ packed), _ZERO
    return key, packed


@njit(cache=True, nogil=True)
def word_key(data: Any, start: int, end: int) -> Any:
    """The key (uint64) of the word data[start:end]."""
    key, packed = _rehash(data, start, end)
    return _finish(key, packed)


@njit(cache=True, nogil=True)
def _find(
    data: Any, start: int, size: int, key: Any, starts: Any, sizes: Any, keys: Any, first: int, slots: Any, n_slots: int
) -> Any:
    """The slot of a word, or the free one where it belongs. Equal numbers mean equal bytes: longer words are compared."""
    slot = np.int64((key * _SPREAD) >> _HALF) & (n_slots - 1)
    while True:
        number = slots[slot]
        if number < 0:
            return slot
        place = first + number
        if keys[place] == key and sizes[place] == size and (size <= 8 or is_same(data, start, data, starts[place], size)):
            return slot
        slot = (slot + 1) & (n_slots - 1)


@njit(cache=True, nogil=True)
def is_same(data: Any, start: int, others: Any, other: int, size: int) -> bool:
    """Are `size` bytes of `data` from `start` on those of `others` from `other` on?"""
    for step in range(size):  # noqa: SIM110 - compiled, all() is no shorter
        if data[start + step] != others[other + step]:
            return False
    return True


@njit(cache=True, nogil=True)
def _grown(slots: Any, n_slots: int, keys: Any) -> Any:
    """A table of `n_slots` slots with the numbers of all words."""
    if len(slots) < n_slots:
        slots = np.empty(n_slots, np.int32)
    slots[:n_slots] = -1
    for number in range(len(keys)):
        slot = np.int64((keys[number] * _SPREAD) >> _HALF) & (n_slots - 1)
        while slots[slot] >= 0:
            slot = (slot + 1) & (n_slots - 1)
        slots[slot] = number
    return slots


@njit(cache=True, nogil=True)
def _is_final(data: Any, span: Any, here: int, after: int, info: Any) -> bool:
    """Is the sigma at data[here:after] the last letter of a word? As Python has it: behind a cased letter, before none.

    Case-ignorable characters are passed over, and punctuation, which is not in the normal form.
    """
    at, bits = here, PUNCTUATION
    while at > span[0] and bits & (PUNCTUATION | CASE_IGNORABLE):
        at -= 1
        while data[at] & 0xC0 == 0x80:
            at -= 1
        bits = int(info[decode(data, at)[0]])
    if bits & (PUNCTUATION | CASE_IGNORABLE) or not bits & (UPPER | LOWER_OR_TITLE):
        return False
    at, bits = after, PUNCTUATION
    while at < span[1] and bits & (PUNCTUATION | CASE_IGNORABLE):
        code, at = decode(data, at)
        bits = int(info[code])
    return bits & (PUNCTUATION | CASE_IGNORABLE) != 0 or not bits & (UPPER | LOWER_OR_TITLE)


@njit(cache=True, nogil=True)
def _order_marks(data: Any, start: int, end: int, info: Any) -> None:
    """Sort each run of combining marks in data[start:end] by their classes, equal ones as they stand (Unicode 3.11, D109)."""
    at = start
    while at < end:
        first, n_marks = at, 0
        places = np.zeros(257, np.int64)
        while at < end:
            code, following = decode(data, at)
            combining = int(info[code]) >> FIRST_CLASS & 0xFF
            if combining == 0:
                break
            places[combining + 1] += following - at
            at, n_marks = following, n_marks + 1
        if n_marks > 1:
            marks = data[first:at].copy()
            for combining in range(256):
                places[combining + 1] += places[combining]
            read = 0
            while read < len(marks):
                code, following = decode(marks, read)
                combining = int(info[code]) >> FIRST_CLASS & 0xFF
                for step in range(read, following):
                    data[first + places[combining]] = marks[step]
                    places[combining] += 1
                read = following
        if n_marks == 0:
            at = decode(data, at)[1]


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
def _entropy(counts: Any, total: int, terms: Any) -> float:
    """Terms in the order of first occurrence, as the published code adds them. `terms` is room for those of small counts."""
    terms[:] = -1.0
    entropy = 0.0
    for count in counts:
        term = terms[count] if count < len(terms) else -1.0
        if term < 0.0:
            term = -count / total * math.log(count / total)
            if count < len(terms):
                terms[count] = term
        entropy += term
    return entropy


@njit(cache=True, nogil=True)
def enter_words(data: Any, starts: Any, keys: Any, slots: Any, hints: Any) -> None:
    """Enter each word of a list, whose bytes are `data[starts[i]:starts[i + 1]]`: its key, its slot (-1 is free), its hint."""
    for word in range(len(starts) - 1):
        start, end = starts[word], starts[word + 1]
        keys[word] = word_key(data, start, end)
        hints[_hint(data[start], data[(start + end) >> 1], data[end - 1], end - start)] = True
        slot = np.int64(keys[word] & np.uint64(len(slots) - 1))
        while slots[slot] >= 0:
            slot = (slot + 1) & (len(slots) - 1)
        slots[slot] = word


@njit(cache=True, nogil=True)
def count_raw_words(data: Any, offsets: Any, info: Any, documents: Any, table: Any, out: Any) -> None:
    """How many raw words of each of the `documents` are in the list, into `out` (int64, by document).

    `table` are the arrays of a PhraseTable in order; raw words are runs of WORD characters, and of what is neither
    that nor SPACE.
    """
    letters, starts, keys, slots, hints = table[:5]
    kinds = np.empty(128, np.uint8)
    for code in range(128):
        kinds[code] = _kind(info[code])
    for document in documents:
        at, end = offsets[document], offsets[document + 1]
        n_found = kind = start = 0
        while at < end:
            here, following = 0, at + 1
            if data[at] < 0x80:
                here = kinds[data[at]]
            else:
                code, following = decode(data, at)
                here = _kind(info[code])
            if here != kind:
                n_found += kind != 0 and _find_raw(data, start, at, letters, starts, keys, slots, hints) >= 0
                kind, start = here, at
            at = following
            while at < end and data[at] < 0x80 and kinds[data[at]] == kind:
                at += 1
        n_found += kind != 0 and _find_raw(data, start, end, letters, starts, keys, slots, hints) >= 0
        out[document] = n_found


@njit(cache=True, nogil=True)
def _kind(bits: Any) -> int:
    """0 for a space, 1 for a word character, 2 for another."""
    return 1 if bits & WORD else (0 if bits & SPACE else 2)


@njit(cache=True, nogil=True)
def count_phrases(data: Any, ids: Any, ends: Any, distinct: Any, documents: Any, table: Any, out: Any) -> None:
    """How many runs of words of each of the `documents` are an entry of the list, into `out`; `ids` are `index_words`'."""
    letters, starts, keys, slots, _, edges, states, is_entry = table
    word_starts, word_sizes, _, _, word_keys = distinct
    listed = np.empty(0, np.int32)
    for document in documents:
        first, n_distinct = ends[1, document], ends[1, document + 1] - ends[1, document]
        if len(listed) < n_distinct:
            listed = np.empty(n_distinct, np.int32)
        n_listed = 0
        for number in range(n_distinct):
            place = first + number
            start = word_starts[place]
            found = _find_listed(data, start, start + word_sizes[place], word_keys[place], letters, starts, keys, slots)
            listed[number] = found
            n_listed += found >= 0
        out[document] = 0
        if n_listed:
            out[document] = _count_phrases(ids[ends[0, document] : ends[0, document + 1]], listed, edges, states, is_entry)


@njit(cache=True, nogil=True)
def _count_phrases(ids: Any, listed: Any, edges: Any, states: Any, is_entry: Any) -> int:
    n_found = 0
    for word in range(len(ids)):
        state, at = 0, word
        while at < len(ids) and listed[ids[at]] >= 0:
            state = _step(state, listed[ids[at]], edges, states)
            if state < 0:
                break
            n_found += is_entry[state]
            at += 1
    return n_found


@njit(cache=True, nogil=True)
def _find_raw(data: Any, start: int, end: int, letters: Any, starts: Any, keys: Any, slots: Any, hints: Any) -> int:
    if not hints[_hint(data[start], data[(start + end) >> 1], data[end - 1], end - start)]:
        return -1
    return _find_listed(data, start, end, word_key(data, start, end), letters, starts, keys, slots)


@njit(cache=True, nogil=True)
def _find_listed(data: Any, start: int, end: int, key: Any, letters: Any, starts: Any, keys: Any, slots: Any) -> int:
    """The number of the word in the list, or -1."""
    slot = np.int64(key & np.uint64(len(slots) - 1))
    while slots[slot] >= 0:
        found = slots[slot]
        is_alike = keys[found] == key and starts[found + 1] - starts[found] == end - start
        if is_alike and (end - start <= 8 or is_same(data, start, letters, starts[found], end - start)):
            return found
        slot = (slot + 1) & (len(slots) - 1)
    return -1


@njit(cache=True, nogil=True)
def _hint(first: int, middle: int, last: int, n_bytes: int) -> int:
    """A small number that most words which are not in the list share with none that is."""
    return (first + 31 * int(middle) + 61 * int(last) + 127 * n_bytes) & (N_HINTS - 1)


@njit(cache=True, nogil=True)
def _step(state: int, word: int, edges: Any, states: Any) -> int:
    """The state after `word`, or -1 where no entry goes on with it."""
    key = np.uint64(state) << _HALF | np.uint64(word)
    slot = np.int64(key * _SPREAD >> _HALF) & (len(edges) - 1)
    while states[slot] >= 0:
        if edges[slot] == key:
            return states[slot]
        slot = (slot + 1) & (len(edges) - 1)
    return -1
