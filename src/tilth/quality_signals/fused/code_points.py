"""What the kernels know of Unicode: properties and normal forms of every code point, made from Python's own tables."""

from __future__ import annotations

import string
import sys
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from tilth.quality_signals.raw_words import word_ranges

# Bits of a code point's entry; the kernels hold copies.
UPPER = 1 << 0  # str.isupper
LOWER_OR_TITLE = 1 << 1  # what keeps a word from being upper case
WORD = 1 << 2  # a character of raw words (UTS 18)
SPACE = 1 << 3  # property White_Space: parts raw words
PYTHON_SPACE = 1 << 4  # str.isspace: stripped from lines, parts normal words
PYTHON_WORD = 1 << 5  # \w of `re`: starts a sentence
NUMERIC = 1 << 6  # str.isnumeric
PUNCTUATION = 1 << 7  # ASCII punctuation: deleted from the normal form
MAPPED = 1 << 8  # the normal form is not the code point itself
CONTEXTUAL = 1 << 9  # lower case depends on neighbours (capital sigma)
ASCII_LETTER = 1 << 10
SYMBOL = 1 << 11  # # and the ellipsis
CASE_IGNORABLE = 1 << 12  # passed over where a sigma's neighbours are looked at
SENTENCE_END = 1 << 13  # . ! ?
TERMINAL = 1 << 14  # . ! ? and the right double quotation mark
BULLET = 1 << 15
# Canonical combining classes of the first and of the last code point of the normal form, 8 bits each.
FIRST_CLASS, LAST_CLASS = 16, 24

MOST_GROWTH = 3  # a normal form has at most three times the bytes; checked when the tables are made

# Beyond the Tertiary Ideographic Plane there is only plane 14 (tags, selectors): no letters, but combining-class-free marks.
_PLANES = ((0x0, 0xD800), (0xE000, 0x40000), (0xE0000, 0xF0000))


@dataclass(frozen=True)
class CodePoints:
    """Tables by code point.

    `info` (uint32, 0x110000 entries) holds the bits above; `places` (int32) is where in `pool` (uint8) the normal form of a
    MAPPED code point lies: how many bytes, characters and numeric characters it has, a byte each, then its UTF-8.
    """

    info: npt.NDArray[np.uint32]
    places: npt.NDArray[np.int32]
    pool: npt.NDArray[np.uint8]


@cache
def code_points() -> CodePoints:
    """The tables of this Python's Unicode version; made once in a process (about half a second)."""
    info = np.zeros(sys.maxunicode + 1, np.uint32)
    for first, last in _PLANES:
        chars = list(map(chr, range(first, last)))
        for bit, values in _properties(chars):
            info[first:last] |= np.fromiter(values, bool, len(chars)).astype(np.uint32) * np.uint32(bit)
        classes = np.fromiter(map(unicodedata.combining, chars), np.uint32, len(chars))
        info[first:last] |= classes << FIRST_CLASS | classes << LAST_CLASS
    for start, end in word_ranges(sys.maxunicode):
        info[start : end + 1] |= WORD
    for bit, members in _SETS.items():
        info[[ord(char) for char in members]] |= bit
    places, pool = _normal_forms(info)
    return CodePoints(info, places, pool)


_SETS = {
    PUNCTUATION: string.punctuation,
    CONTEXTUAL: "Σ",
    SPACE: "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B))),
    ASCII_LETTER: string.ascii_letters,
    SYMBOL: "#…",
    SENTENCE_END: ".!?",
    TERMINAL: ".!?”",
    BULLET: "•‣▶◀◦■□▪▫–",
}


def _properties(chars: list[str]) -> Iterator[tuple[int, Iterable[bool]]]:
    yield UPPER, map(str.isupper, chars)
    # Of single characters, istitle is true of capitals too.
    yield LOWER_OR_TITLE, (char.islower() or (char.istitle() and not char.isupper()) for char in chars)
    yield PYTHON_SPACE, map(str.isspace, chars)
    yield PYTHON_WORD, (char.isalnum() or char == "_" for char in chars)
    yield NUMERIC, map(str.isnumeric, chars)
    # Python has no property for it, but what it makes of a sigma tells: final behind a cased letter, ignorable ones aside.
    yield CASE_IGNORABLE, (_is_final_after("A" + char) and not _is_final_after(char) for char in chars)


def _is_final_after(before: str) -> bool:
    return (before + "Σ").lower()[-1] == "ς"


def _normal_forms(info: npt.NDArray[np.uint32]) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.uint8]]:
    """Fill `places` and `pool`, and mark in `info` what has an entry."""
    places = np.zeros(len(info), np.int32)
    pool = bytearray()
    for first, last in _PLANES:
        for code in range(first, last):
            char = chr(code)
            form = unicodedata.normalize("NFD", char.lower())
            if form == char:
                continue
            encoded = form.encode()
            if len(encoded) > MOST_GROWTH * len(char.encode()):
                raise AssertionError(f"the normal form of U+{code:04X} is longer than the kernels provide for")
            info[code] &= np.uint32(0xFFFF)
            info[code] |= np.uint32(
                MAPPED | unicodedata.combining(form[0]) << FIRST_CLASS | unicodedata.combining(form[-1]) << LAST_CLASS
            )
            places[code] = len(pool)
            pool += bytes([len(encoded), len(form), sum(map(str.isnumeric, form))]) + encoded
    return places, np.frombuffer(bytes(pool), np.uint8)
