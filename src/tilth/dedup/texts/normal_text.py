"""The normal form of a text: what stays when case, punctuation, white space and the way of composing letters do not count.

In this order, with the Unicode tables of this Python:

1. canonical caseless form (Unicode Standard, D145): decompose, fold the case, decompose. So `É`, `é` and `e` with an accent
   of its own are one; final sigma is a sigma, the dotted capital I an `i` with its dot, `ß` is `ss`. Two texts are equal in
   this form exactly when they are in the composed one (NFC);
2. out go punctuation (categories P*), control characters that are no white space, and format characters (Cf: soft hyphens,
   zero-width joiners, byte order marks). Symbols (`+`, `<`, `$`), letters, digits and marks stay;
3. each run of white space (`str.isspace`) is one space, none at the ends.

It suits prose. Programs that differ in punctuation alone are equal in it: for those use the exact text.
"""

from __future__ import annotations

import sys
import unicodedata
from functools import cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from numba import njit

from tilth.dedup.texts.buffers import Bytes, Utf8, utf8
from tilth.dedup.texts.tokens import decode

_KEEP, _DROP, _SPACE = 0, 1, 2
_MOST_GROWTH = 3  # a normal form has at most three times the bytes; held to when the tables are made
_IOTA_MARK, _IOTA = 0x345, 0x3B9
_SHORT_RUN = 16  # marks that are put in order one by one
# Ideographs are their own form, and most of what there is; beyond plane 3 only plane 14 has characters with properties.
_IDEOGRAPHS = (range(0x3400, 0x4DC0), range(0x4E00, 0xA000), range(0x20000, 0x2A6E0), range(0x2A700, 0x2F800))
_PLANES = ((0x0, 0xD800), (0xE000, 0x20000), (0x2F800, 0x2FA20), (0xE0000, 0xE1000))


class _Tables(NamedTuple):
    """By code point: place of its form in `pool` or -1, combining class, what becomes of it. `ascii` maps bytes at once."""

    forms: npt.NDArray[np.int32]
    pool: npt.NDArray[np.int32]  # count, then code points
    classes: Bytes
    kinds: Bytes
    ascii: Bytes  # the folded byte, 32 for white space, 0 for what goes


def normal_texts(texts: pa.Array | pa.ChunkedArray) -> pa.LargeStringArray:
    """The normal form of each of `texts` (string or large_string; a null counts as empty), decomposed.

    Memory: what the texts take, up to three times, and four times the longest. Nothing but marks is compared twice, so
    time grows with the bytes whatever they are.
    """
    return fold(utf8(texts)).to_arrow()


def fold(texts: Utf8) -> Utf8:
    """The normal forms of texts, or of pieces that lie side by side in them."""
    tables = _tables()
    longest = int(np.diff(texts.offsets).max(initial=0))
    out = np.empty(_MOST_GROWTH * len(texts.data) + 8, np.uint8)
    ends = _fold(texts.data, texts.offsets, *tables, out, np.empty(longest + 8, np.int32))
    return Utf8(out[: ends[-1]], ends)


@cache
def _tables() -> _Tables:
    """Tables of this Python's Unicode version; made once in a process (about a quarter of a second)."""
    n_codes = sys.maxunicode + 1
    forms = np.full(n_codes, -1, np.int32)
    classes, kinds = np.zeros(n_codes, np.uint8), np.zeros(n_codes, np.uint8)
    pool: list[int] = []
    for first, last in _PLANES:
        for code in range(first, last):
            if any(code in block for block in _IDEOGRAPHS):
                continue
            char = chr(code)
            classes[code] = unicodedata.combining(char)
            category = unicodedata.category(char)
            if char.isspace():
                kinds[code] = _SPACE
            elif category[0] == "P" or category in ("Cc", "Cf"):
                kinds[code] = _DROP
            form = _form(char)
            if form != char:
                if len(form.encode()) > _MOST_GROWTH * len(char.encode()):
                    raise AssertionError(f"the normal form of U+{code:04X} is longer than the kernel provides for")
                forms[code] = len(pool)
                pool += [len(form), *map(ord, form)]
    ascii_bytes = [0 if kinds[code] == _DROP else 32 if kinds[code] == _SPACE else ord(chr(code).lower()) for code in range(128)]
    return _Tables(forms, np.array(pool, np.int32), classes, kinds, np.array(ascii_bytes, np.uint8))


def _form(char: str) -> str:
    # The subscript iota folds to a letter; it stays a mark until the marks around it are in order, as D145 has it.
    decomposed = unicodedata.normalize("NFD", char)
    folded = "".join(one if ord(one) == _IOTA_MARK else one.casefold() for one in decomposed)
    return unicodedata.normalize("NFD", folded)


@njit(cache=True, nogil=True)
def _fold(data, offsets, forms, pool, classes, kinds, ascii, out, marks):  # type: ignore[no-untyped-def]
    """Write the normal forms back to back into `out`; gives their offsets."""
    ends = np.zeros(len(offsets), np.int64)
    size = 0
    for text in range(len(offsets) - 1):
        begin = size
        n_marks = 0
        space = False  # white space since the last character that stayed
        place, end = offsets[text], offsets[text + 1]
        while place < end:
            byte = data[place]
            if byte < 0x80:
                if n_marks:
                    size, space = _put_marks(out, size, begin, space, marks, n_marks, classes)
                    n_marks = 0
                place += 1
                folded = ascii[byte]
                if folded == 32:
                    space = True
                elif folded != 0:
                    if space and size > begin:
                        out[size] = 32
                        size += 1
                    space = False
                    out[size] = folded
                    size += 1
                continue
            code, width = decode(data, place)
            place += width
            form = forms[code]
            first, count = (form + 1, pool[form]) if form >= 0 else (0, 1)
            for piece in range(count):
                one = pool[first + piece] if form >= 0 else code
                if classes[one]:
                    marks[n_marks] = one
                    n_marks += 1
                    continue
                if n_marks:
                    size, space = _put_marks(out, size, begin, space, marks, n_marks, classes)
                    n_marks = 0
                if kinds[one] == _SPACE:
                    space = True
                elif kinds[one] == _KEEP:
                    size = _put_space(out, size, begin, space)
                    space = False
                    size = _put(out, size, one)
        if n_marks:
            size, space = _put_marks(out, size, begin, space, marks, n_marks, classes)
        ends[text + 1] = size
    return ends


@njit(cache=True, nogil=True, inline="always")
def _put_space(out, size, begin, space):  # type: ignore[no-untyped-def]
    if space and size > begin:
        out[size] = 32
        return size + 1
    return size


@njit(cache=True, nogil=True)
def _put_marks(out, size, begin, space, marks, n_marks, classes):  # type: ignore[no-untyped-def]
    """Append a run of combining marks in canonical order, stably by class; white space before them is used up."""
    size = _put_space(out, size, begin, space)
    if n_marks <= _SHORT_RUN:
        for i in range(1, n_marks):
            one, at = marks[i], i
            while at > 0 and classes[marks[at - 1]] > classes[one]:
                marks[at] = marks[at - 1]
                at -= 1
            marks[at] = one
        for i in range(n_marks):
            size = _put(out, size, _IOTA if marks[i] == _IOTA_MARK else marks[i])
        return size, False
    for wanted in range(1, 256):
        for i in range(n_marks):
            if classes[marks[i]] == wanted:
                size = _put(out, size, _IOTA if marks[i] == _IOTA_MARK else marks[i])
    return size, False


@njit(cache=True, nogil=True)
def _put(out, size, code):  # type: ignore[no-untyped-def]
    """Append a code point as UTF-8."""
    if code < 0x80:
        out[size] = code
        return size + 1
    if code < 0x800:
        out[size] = 0xC0 | (code >> 6)
    else:
        if code < 0x10000:
            out[size] = 0xE0 | (code >> 12)
        else:
            out[size] = 0xF0 | (code >> 18)
            size += 1
            out[size] = 0x80 | ((code >> 12) & 0x3F)
        size += 1
        out[size] = 0x80 | ((code >> 6) & 0x3F)
    out[size + 1] = 0x80 | (code & 0x3F)
    return size + 2
