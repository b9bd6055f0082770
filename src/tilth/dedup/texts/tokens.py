"""Tokens of texts as 64-bit hashes, read straight from Arrow's UTF-8: the units whose sequences are compared.

Words: the text in lower case and Unicode's composed form (NFC); each character of a script that is written without
spaces (tilth.dedup.texts.spaceless) is a token, and otherwise each run of letters, digits and underscores. White space and
punctuation only separate. Characters: every character of that form is a token, where runs of white space count as one space
and those at both ends as none.

A kernel maps code points one by one. Texts for which that is not the whole truth (marks that compose or change places,
the capitals İ and Σ) are brought into that form by Python first.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from numba import njit

from tilth.dedup.minhash.parameters import Unit
from tilth.dedup.texts.buffers import Utf8, utf8
from tilth.dedup.texts.eight_bytes import HIGH_BITS, eight, gathered, lowest_bytes, small, trailing_zeros, word_bytes
from tilth.dedup.texts.mixing import MULTIPLIER, STEP, Hashes, mix
from tilth.dedup.texts.spaceless import SPACELESS_RANGES

Ints = npt.NDArray[np.int64]

_SPACELESS = "".join(f"{chr(first)}-{chr(last)}" for first, last in SPACELESS_RANGES)
_WORD = re.compile(rf"[{_SPACELESS}]|[^\W{_SPACELESS}]+")
_WORDS, _SPACES = re.compile(r"\w+"), re.compile(r"\s+")
# An entry of the table: the code point in lower case, and what it is.
_CODE, _IN_WORD, _ALONE, _SPACE, _ODD = (1 << 21) - 1, 1 << 21, 1 << 22, 1 << 23, 1 << 24
ONE = np.uint64(1)
# Where characters are letters, digits or space: beyond U+3FFFF there are but tags and selectors in plane 14. The first group
# can differ from its lower case or composed form; ideographs and Korean syllables, the second, cannot.
_CHANGING = ((0, 0x3400), (0xA000, 0xAC00), (0xD780, 0xD800), (0xE000, 0x20000), (0x2F800, 0x30000), (0xE0000, 0xE1000))
_BLOCK = 128  # which divides them all
_PLAIN = ((0x3400, 0xA000), (0xAC00, 0xD780), (0x20000, 0x2F800), (0x30000, 0x40000))


def tokens(text: str, unit: Unit = "words") -> list[str]:
    """The tokens of a text, as said above: what the kernel hashes, in words that a person can read."""
    folded = fold(text)
    return _WORD.findall(folded) if unit == "words" else list(" ".join(folded.split()))


def fold(text: str) -> str:
    """Lower case in composed form; lower-casing can decompose (dotted capital I), so composing comes after it."""
    return unicodedata.normalize("NFC", text.lower())


def folded_texts(texts: pa.Array) -> tuple[Utf8, npt.NDArray[np.bool_]]:
    """The bytes of `texts` (string or large_string; a null counts as empty), and which of them Python had to fold.

    No copy is made where no text had to be folded.
    """
    array = texts.cast(pa.large_string())
    found = utf8(array)
    odd = np.zeros(len(array), np.bool_)
    _find_odd(found.data, found.offsets, code_points(), odd)
    if odd.any():
        places = np.flatnonzero(odd)
        folded = pa.array([fold(text or "") for text in array.take(pa.array(places)).to_pylist()], pa.large_string())
        order = np.arange(len(array))
        order[places] = len(array) + np.arange(len(places))
        found = utf8(pa.concat_arrays([array, folded]).take(pa.array(order)))
    return found, odd


def hash_tokens(texts: Utf8, folded: npt.NDArray[np.bool_], unit: Unit) -> tuple[Hashes, Ints]:
    """(hashes, ends): the hash of each token, and how many tokens come before each text (one more entry than texts)."""
    n_bytes = len(texts.data)
    words = unit == "words"
    n_most = n_bytes // 2 + len(folded) if words else n_bytes
    hashes, ends = np.empty(n_most, np.uint64), np.zeros(len(folded) + 1, np.int64)  # what is not written takes no memory
    _hash_tokens(texts.data, texts.offsets, folded, code_points(), words, hashes, ends)
    return hashes[: ends[-1]], ends


@cache
def code_points() -> npt.NDArray[np.uint32]:
    """The table of this Python's Unicode version (0x110000 entries); made once in a process, in a fiftieth of a second."""
    table = np.arange(sys.maxunicode + 1, dtype=np.uint32)
    # Jamo that compose with a Korean syllable; all other seconds stand in a decomposition.
    seconds = {chr(code) for first, last in ((0x1161, 0x1176), (0x11A8, 0x11C3)) for code in range(first, last)}
    lowered: dict[int, str] = {}
    starts = [start for first, last in _CHANGING for start in range(first, last, _BLOCK)]
    for start in starts:
        block = _characters(start, start + _BLOCK)
        odd = np.fromiter(map(unicodedata.combining, block), np.uint8, len(block)) > 0
        if not unicodedata.is_normalized("NFD", block):
            for at, char in enumerate(block):
                parts = unicodedata.decomposition(char)
                if parts and parts[0] != "<":
                    odd[at] |= unicodedata.normalize("NFC", char) != char
                    seconds.update(chr(int(code, 16)) for code in parts.split()[1:])
        if block.lower() != block:
            lowered |= {start + at: char.lower() for at, char in enumerate(block) if char.lower() != char}
        table[start : start + len(block)] |= np.where(odd, np.uint32(_ODD), np.uint32(0))
    table[list(map(ord, seconds))] |= np.uint32(_ODD)
    for code, low in lowered.items():
        bits = table[code] & np.uint32(_ODD) if len(low) == 1 and not table[ord(low)] & np.uint32(_ODD) else np.uint32(_ODD)
        table[code] = np.uint32(ord(low[0])) | bits
    table[ord("Σ")] |= np.uint32(_ODD)  # its lower case depends on its neighbours
    for first, last in (*_CHANGING, *_PLAIN):
        for runs, bit in ((_WORDS, _IN_WORD), (_SPACES, _SPACE)):
            for run in runs.finditer(_characters(first, last)):
                table[first + run.start() : first + run.end()] |= np.uint32(bit)
    for first, last in SPACELESS_RANGES:
        table[first : last + 1] |= np.uint32(_ALONE)
    return table


def _characters(first: int, last: int) -> str:
    """Those of the code points from `first` to before `last`."""
    return np.arange(first, last, dtype="<u4").tobytes().decode("utf-32-le")


@njit(cache=True, nogil=True)
def _find_odd(data, offsets, table, odd):  # type: ignore[no-untyped-def]
    last_eight = len(data) - 8
    for text in range(len(odd)):
        place, end = offsets[text], offsets[text + 1]
        while place < end:
            if place <= last_eight and not eight(data, place) & HIGH_BITS:
                place += 8
                continue
            code, width = decode(data, place)
            if table[code] & _ODD:
                odd[text] = True
                break
            place += width


@njit(cache=True, nogil=True, inline="always")
def decode(data: Any, place: Any) -> Any:
    """(code point, bytes) of the valid UTF-8 at `place`."""
    byte = np.int64(data[place])
    if byte < 0x80:
        return byte, 1
    if byte < 0xE0:
        return ((byte & 0x1F) << 6) | (data[place + 1] & 0x3F), 2
    if byte < 0xF0:
        return ((byte & 0x0F) << 12) | ((data[place + 1] & 0x3F) << 6) | (data[place + 2] & 0x3F), 3
    high = ((byte & 0x07) << 18) | ((data[place + 1] & 0x3F) << 12)
    return high | ((data[place + 2] & 0x3F) << 6) | (data[place + 3] & 0x3F), 4


@njit(cache=True, nogil=True)
def _hash_tokens(data, offsets, folded, table, words, hashes, ends):  # type: ignore[no-untyped-def]
    n = 0
    for text in range(len(folded)):
        if words:
            n = _hash_words(data, offsets[text], offsets[text + 1], folded[text], table, hashes, n)
        else:
            n = _hash_characters(data, offsets[text], offsets[text + 1], folded[text], table, hashes, n)
        ends[text + 1] = n


@njit(cache=True, nogil=True)
def _hash_words(data, place, end, folded, table, hashes, n):  # type: ignore[no-untyped-def]
    """Sixty-four bytes at a time, unless there is a character among them that must be looked at."""
    start = np.int64(-1)  # of the word that `place` lies in or behind
    while place < end:
        n_bytes, is_word, plain = min(64, end - place), np.uint64(0), False
        if place + 64 + 8 <= len(data):
            is_word, n_bytes, plain = _word_bits(data, place, n_bytes, folded, table)
        if not plain:
            n, place = _hash_one_by_one(data, place, place + n_bytes, end, start, folded, table, hashes, n)
            start = np.int64(-1)
            continue
        edges = is_word ^ (is_word << ONE | np.uint64(start >= 0))
        if n_bytes < 64:
            edges &= (ONE << np.uint64(n_bytes)) - ONE
        while edges:
            at = place + trailing_zeros(edges)
            edges &= edges - ONE
            if start < 0:
                start = at
                continue
            state = STEP
            while start + 8 < at:
                state = (state ^ small(eight(data, start))) * MULTIPLIER
                start += 8
            hashes[n] = mix((state ^ lowest_bytes(small(eight(data, start)), at - start)) * MULTIPLIER)
            n += 1
            start = np.int64(-1)
        place += n_bytes
    if start >= 0:
        hashes[n] = _hash_word(data, start, end, folded, table)
        n += 1
    return n


@njit(cache=True, nogil=True)
def _hash_one_by_one(data, place, until, end, start, folded, table, hashes, n):  # type: ignore[no-untyped-def]
    """Go on with the characters that begin before `until`, and to the end of a word: (tokens so far, the place reached)."""
    while place < until or (start >= 0 and place < end):
        code, width = decode(data, place)
        entry = table[code]
        if entry & np.uint32(_IN_WORD | _ALONE) == np.uint32(_IN_WORD):
            start = start if start >= 0 else place
        else:
            if start >= 0:
                hashes[n] = _hash_word(data, start, place, folded, table)
                n += 1
                start = np.int64(-1)
            if entry & np.uint32(_ALONE):
                lower = np.uint64(code) if folded else np.uint64(entry & np.uint32(_CODE))
                hashes[n] = mix((STEP ^ encode(lower)) * MULTIPLIER)
                n += 1
        place += width
    if start >= 0:
        hashes[n] = _hash_word(data, start, place, folded, table)
        n += 1
    return n, place


@njit(cache=True, nogil=True)
def _word_bits(data, place, n_bytes, folded, table):  # type: ignore[no-untyped-def]
    """(a bit for each of `n_bytes` that belongs to a word, how many bytes are whole characters, whether all is plain).

    Plain is what has no character outside ASCII that stands alone or whose small letter is another.
    """
    is_word = not_ascii = np.uint64(0)
    for part in range(8):
        block = eight(data, place + 8 * part)
        is_word |= word_bytes(block) << np.uint64(8 * part)
        not_ascii |= gathered(block & HIGH_BITS) << np.uint64(8 * part)
    if n_bytes < 64:
        not_ascii &= (ONE << np.uint64(n_bytes)) - ONE
    is_word &= ~not_ascii
    while not_ascii:
        at = trailing_zeros(not_ascii)
        code, width = decode(data, place + at)
        if at + width > n_bytes:
            return is_word, at, True
        entry = table[code]
        if entry & np.uint32(_ALONE) or (not folded and np.int64(entry & np.uint32(_CODE)) != code):
            return is_word, n_bytes, False
        bits = ((ONE << np.uint64(width)) - ONE) << np.uint64(at)
        not_ascii &= ~bits
        if entry & np.uint32(_IN_WORD):
            is_word |= bits
    return is_word, n_bytes, True


@njit(cache=True, nogil=True)
def _hash_word(data, place, end, folded, table):  # type: ignore[no-untyped-def]
    """A word of any characters: the bytes of its lower case, eight at a time; `pending` are those that are not yet eight."""
    state, pending, n_pending = STEP, np.uint64(0), np.uint64(0)
    while place < end:
        code, width = decode(data, place)
        place += width
        encoded = encode(np.uint64(code) if folded else np.uint64(table[code] & np.uint32(_CODE)))
        while encoded:
            pending |= (encoded & np.uint64(0xFF)) << (np.uint64(8) * n_pending)
            encoded >>= np.uint64(8)
            n_pending += ONE
            if n_pending == 8:
                state, pending, n_pending = (state ^ pending) * MULTIPLIER, np.uint64(0), np.uint64(0)
    if n_pending:
        state = (state ^ pending) * MULTIPLIER
    return mix(state)


@njit(cache=True, nogil=True, inline="always")
def encode(code: Any) -> Any:
    """The UTF-8 bytes of a code point, the first one lowest; ASCII with the bit of small letters, as whole words have it."""
    low = code & np.uint64(0x3F) | np.uint64(0x80)
    if code < 0x80:
        return code | np.uint64(0x20)
    if code < 0x800:
        return code >> np.uint64(6) | np.uint64(0xC0) | low << np.uint64(8)
    middle = code >> np.uint64(6) & np.uint64(0x3F) | np.uint64(0x80)
    if code < 0x10000:
        return code >> np.uint64(12) | np.uint64(0xE0) | middle << np.uint64(8) | low << np.uint64(16)
    high = code >> np.uint64(12) & np.uint64(0x3F) | np.uint64(0x80)
    first = code >> np.uint64(18) | np.uint64(0xF0)
    return first | high << np.uint64(8) | middle << np.uint64(16) | low << np.uint64(24)


@njit(cache=True, nogil=True, inline="always")
def _hash_characters(data, place, end, folded, table, hashes, n):  # type: ignore[no-untyped-def]
    first, pending = n, False  # behind white space that is a token if another follows
    while place < end:
        code, width = decode(data, place)
        place += width
        entry = table[code]
        if entry & np.uint32(_SPACE):
            pending = n > first
            continue
        if pending:
            hashes[n] = mix(STEP ^ np.uint64(32))
            n += 1
            pending = False
        hashes[n] = mix(STEP ^ (np.uint64(code) if folded else np.uint64(entry & np.uint32(_CODE))))
        n += 1
    return n
