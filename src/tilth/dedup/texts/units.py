"""Texts as sequences of hashed units with their places, at the speed of compiled code: what overlap is counted in.

`WORDS`: runs of letters and digits as one compares prose: no case, no accents, no punctuation; apostrophes, soft hyphens
and zero-width marks are not there at all (`don't` = `dont`). `CHARACTERS`: the same letters and digits, one by one, without
any bounds between words. `TOKENS`: words and single marks as they are written; only white space is not compared.
In scripts without spaces between words (Han, kana, Thai, Lao, Khmer, Burmese) every code point is a word.
"""

from __future__ import annotations

import unicodedata
from functools import cache
from typing import Any, Final, Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from numba import njit

from tilth.dedup.texts.tokens import decode

Unit = Literal["words", "characters", "tokens", "code"]  # code: `code_units`
Hashes: TypeAlias = npt.NDArray[np.uint64]
Ints: TypeAlias = npt.NDArray[np.int32]
Longs: TypeAlias = npt.NDArray[np.int64]

WORDS: Final = "words"
CHARACTERS: Final = "characters"
TOKENS: Final = "tokens"
_BREAK, _LETTER, _SINGLE, _ABSENT = 0, 1, 2, 3  # ends a word, is a part of one, is one, is not there
_KIND_SHIFT, _CODE_BITS = 24, (1 << 24) - 1
_N_CODES = 0x33480  # no letter, mark or digit of Unicode 16 lies beyond, but for variation selectors
_APOSTROPHES = "'’‘ʼ`´＇"
_INVISIBLE = "\u00ad\u200b\u200c\u200d\u2060\ufeff"
_ACCENTS = range(0x300, 0x370)
_SELECTORS = range(0xFE00, 0xFE10)
_NO_SPACES = (
    (0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x2E80, 0x2FDF), (0x3005, 0x3007), (0x3041, 0x30FF),
    (0x31F0, 0x31FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x323AF),
)  # fmt: skip
_SEED, _STEP = np.uint64(0x9E3779B97F4A7C15), np.uint64(0x100000001B3)


class Units(NamedTuple):
    """The units of some texts, one after the other; `n_units` of each text. Places count code points of the text."""

    hashes: Hashes
    starts: Ints
    ends: Ints  # exclusive
    n_units: Longs

    @property
    def bounds(self) -> Longs:
        """Where the units of each text begin, and where the last ends."""
        return np.concatenate((np.zeros(1, np.int64), np.cumsum(self.n_units)))


def units_of(texts: pa.Array | pa.ChunkedArray, unit: Unit) -> Units:
    """Cut and hash `texts` (string or large_string; a null counts as empty). Memory: 16 bytes a unit."""
    chunks = texts.chunks if isinstance(texts, pa.ChunkedArray) else [texts]
    found = [_of_chunk(chunk, unit) for chunk in chunks if len(chunk)]
    if len(found) == 1:
        return found[0]
    none = Units(np.zeros(0, np.uint64), np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros(0, np.int64))
    return Units(*(np.concatenate(parts) for parts in zip(*found, none)))


def _of_chunk(chunk: pa.Array, unit: Unit) -> Units:
    array = chunk.cast(pa.large_string())
    array = array.fill_null("") if array.null_count else array
    _, offset_buffer, data_buffer = array.buffers()
    offsets = np.frombuffer(offset_buffer, dtype=np.int64)[array.offset : array.offset + len(array) + 1]
    data = np.frombuffer(data_buffer, dtype=np.uint8) if data_buffer else np.zeros(0, np.uint8)
    # One unit a byte at most; of what is not written to, the system gives no memory.
    most = int(offsets[-1] - offsets[0]) + 1
    hashes, starts, ends = np.empty(most, np.uint64), np.empty(most, np.int32), np.empty(most, np.int32)
    n_units = np.zeros(len(array), np.int64)
    beyond = _SINGLE if unit == TOKENS else _BREAK if unit == WORDS else _ABSENT
    n = _cut(data, offsets, _code_points(unit), beyond, hashes, starts, ends, n_units)
    return Units(hashes[:n], starts[:n], ends[:n], n_units)


@cache
def _code_points(unit: Unit) -> Ints:
    """For each code point its kind, and what it is compared as."""
    codes = np.zeros(_N_CODES, np.int32)
    for code in range(_N_CODES):
        char = chr(code)
        if unit == TOKENS:
            kind, value = _kind_as_written(char), code
        else:
            kind, value = _kind_folded(char), ord(_folded(char))
            if unit == CHARACTERS:
                kind = _SINGLE if kind in (_LETTER, _SINGLE) else _ABSENT
        codes[code] = kind << _KIND_SHIFT | value
    return codes


def _kind_as_written(char: str) -> int:
    if char.isspace():
        return _BREAK
    is_letter = char.isalnum() or unicodedata.category(char) in ("Mn", "Mc")
    return _LETTER if is_letter and not _is_word_alone(ord(char)) else _SINGLE


def _kind_folded(char: str) -> int:
    code = ord(char)
    if char in _APOSTROPHES or char in _INVISIBLE or code in _ACCENTS or code in _SELECTORS:
        return _ABSENT
    if not char.isalnum() and unicodedata.category(char) not in ("Mn", "Mc"):
        return _BREAK
    return _SINGLE if _is_word_alone(code) else _LETTER


def _is_word_alone(code: int) -> bool:
    return any(first <= code <= last for first, last in _NO_SPACES)


def _folded(char: str) -> str:
    """Without case, accents and width, where that is one character; else as it is."""
    base, *marks = list(unicodedata.normalize("NFKD", char))
    if all(ord(mark) in _ACCENTS for mark in marks):
        char = base
    # Sharp s and the like fold to two letters: these are compared in lower case.
    return next((form for form in (char.casefold(), char.lower()) if len(form) == 1), char)


@njit(cache=True, nogil=True, inline="always")
def mixed(value: Any) -> Any:
    """All bits of a hash depend on all (the finalizer of splitmix64)."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


@njit(cache=True, nogil=True)
def _cut(text, offsets, codes, beyond, hashes, starts, ends, n_units):  # type: ignore[no-untyped-def]
    """Fill the units of all texts; returns how many there are."""
    unit = 0
    for document in range(len(offsets) - 1):
        place, stop, first, char = offsets[document], offsets[document + 1], unit, 0
        value, inside, reached = _SEED, False, 0
        while place < stop:
            code, width = decode(text, place)
            entry = np.int64(codes[code]) if code < len(codes) else (beyond << _KIND_SHIFT) | code
            kind = entry >> _KIND_SHIFT
            if kind == _LETTER:
                if not inside:
                    starts[unit], value, inside = char, _SEED, True
                value = (value ^ np.uint64(entry & _CODE_BITS)) * _STEP
                value ^= value >> np.uint64(29)
                reached = char + 1
            elif kind != _ABSENT:
                if inside:
                    hashes[unit], ends[unit], inside = mixed(value), reached, False
                    unit += 1
                if kind == _SINGLE:
                    hashes[unit] = mixed((_SEED ^ np.uint64(entry & _CODE_BITS)) * _STEP)
                    starts[unit], ends[unit] = char, char + 1
                    unit += 1
            char += 1
            place += width
        if inside:
            hashes[unit], ends[unit] = mixed(value), reached
            unit += 1
        n_units[document] = unit - first
    return unit
