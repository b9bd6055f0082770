"""CCNet's hash of a line: the first eight bytes of the SHA-1 of its normal form, at the speed of compiled code.

Normal form (Wenzek et al., arXiv:1911.00359, and the code published with it): white space at both ends off, lower case,
every decimal digit a `0`, typographic punctuation and control characters removed. Only `\\n` ends a line.
Code points are mapped one by one by a table; the two capitals that Python lower-cases otherwise (the dotted I, which
becomes two, and the sigma, which depends on its neighbours) send their line to Python.
"""

from __future__ import annotations

import hashlib
import re
import sys
from functools import cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from numba import njit

from tilth.dedup.texts.sha1 import ROOM_BYTES, sha1_head
from tilth.dedup.texts.tokens import decode

Hashes = npt.NDArray[np.uint64]
Ints = npt.NDArray[np.int32]

REMOVED_PUNCTUATION = "，。、„”“«»」「《》´∶：？！（）；–—．～’…━〈〉【】％►"
_DIGIT = re.compile(r"\d")
_REMOVED = re.compile(rf"[{REMOVED_PUNCTUATION}\x00-\x1f\x7f-\x9f]")
_SPACE_BIT, _REMOVED_BIT, _ODD_BIT, _CODE_BITS = 1 << 24, 1 << 25, 1 << 26, (1 << 24) - 1
_DIGEST_BYTES = 8


class Lines(NamedTuple):
    """Lines of some texts in order: hash and length in characters (newline not counted) of each, lines of each text."""

    hashes: Hashes
    n_chars: Ints
    n_lines: Ints


def normalize_line(line: str) -> str:
    """CCNet's normal form of one line, for hashing."""
    return _REMOVED.sub("", _DIGIT.sub("0", line.strip().lower()))


def line_hash(line: str) -> int:
    """CCNet's hash of one line: the first eight bytes of the SHA-1 of its normal form, read as little-endian."""
    digest = hashlib.sha1(normalize_line(line).encode(), usedforsecurity=False).digest()
    return int.from_bytes(digest[:_DIGEST_BYTES], "little")


EMPTY_LINE = line_hash("")


def hash_lines(texts: pa.Array | pa.ChunkedArray) -> Lines:
    """Hash every line of `texts` (string or large_string; a null counts as empty). A text's last line may be empty.

    Memory: 12 bytes a line and twice the longest text.
    """
    chunks = texts.chunks if isinstance(texts, pa.ChunkedArray) else [texts]
    found = [_hash_chunk(chunk) for chunk in chunks]
    none = Lines(np.zeros(0, np.uint64), np.zeros(0, np.int32), np.zeros(0, np.int32))
    return Lines(*(np.concatenate(parts) for parts in zip(*found, none)))


def _hash_chunk(chunk: pa.Array) -> Lines:
    array = chunk.cast(pa.large_string()).fill_null("") if chunk.null_count else chunk.cast(pa.large_string())
    if not len(array):
        return Lines(np.zeros(0, np.uint64), np.zeros(0, np.int32), np.zeros(0, np.int32))
    _, offset_buffer, data_buffer = array.buffers()
    offsets = np.frombuffer(offset_buffer, dtype=np.int64)[array.offset : array.offset + len(array) + 1]
    data = np.frombuffer(data_buffer, dtype=np.uint8) if data_buffer else np.zeros(0, np.uint8)
    text = data[offsets[0] : offsets[-1]]
    offsets = offsets - offsets[0]
    n_lines = _count_lines(text, offsets)
    n_total = int(n_lines.sum())
    hashes, n_chars = np.zeros(n_total, np.uint64), np.zeros(n_total, np.int32)
    # Lower-casing makes UTF-8 longer by half at most.
    scratch = np.zeros(2 * int(np.diff(offsets).max()) + ROOM_BYTES, np.uint8)
    odd = np.zeros(n_total, np.bool_)
    starts = np.zeros(n_total, np.int64)
    _hash(text, offsets, _code_points(), scratch, hashes, n_chars, starts, odd)
    for place in np.flatnonzero(odd):
        # At most four bytes a character, and the line's own newline ends it.
        piece = text[starts[place] : starts[place] + 4 * int(n_chars[place])].tobytes().decode("utf-8", "ignore")
        hashes[place] = line_hash(piece[: int(n_chars[place])])
    return Lines(hashes, n_chars, n_lines)


@cache
def _code_points() -> npt.NDArray[np.int32]:
    """For each code point its lower case and flags: white space, removed, or to be left to Python."""
    codes = np.arange(sys.maxunicode + 1, dtype=np.int32)
    for code in codes:
        char = chr(code)
        lower = char.lower()
        if len(lower) != 1 or char == "Σ":
            codes[code] |= _ODD_BIT
        elif char.isdecimal():
            codes[code] = ord("0")
        elif lower in REMOVED_PUNCTUATION or code < 0x20 or 0x7F <= code < 0xA0:
            codes[code] |= _REMOVED_BIT
        else:
            codes[code] = ord(lower)
        if char.isspace():
            codes[code] |= _SPACE_BIT
    return codes


@njit(cache=True, nogil=True)
def _count_lines(text, offsets):  # type: ignore[no-untyped-def]
    n_lines = np.ones(len(offsets) - 1, np.int32)
    for document in range(len(n_lines)):
        for place in range(offsets[document], offsets[document + 1]):
            if text[place] == 10:
                n_lines[document] += 1
    return n_lines


@njit(cache=True, nogil=True)
def _hash(text, offsets, codes, scratch, hashes, n_chars, starts, odd):  # type: ignore[no-untyped-def]
    schedule = np.zeros(80, np.uint32)
    line = 0
    for document in range(len(offsets) - 1):
        place, end = offsets[document], offsets[document + 1]
        while True:
            starts[line] = place
            size = chars = kept = 0
            started = False
            while place < end and text[place] != 10:
                code, width = decode(text, place)
                place += width
                chars += 1
                entry = codes[code]
                is_space = (entry & _SPACE_BIT) != 0
                if is_space and not started:
                    continue
                started = True
                if entry & _ODD_BIT:
                    odd[line] = True
                elif not entry & _REMOVED_BIT:
                    size = _put(scratch, size, entry & _CODE_BITS)
                if not is_space:
                    kept = size
            if not odd[line]:
                hashes[line] = sha1_head(scratch, kept, schedule)
            n_chars[line] = chars
            line += 1
            if place >= end:
                break
            place += 1


@njit(cache=True, nogil=True, inline="always")
def _put(scratch, size, code):  # type: ignore[no-untyped-def]
    """Append a code point as UTF-8."""
    if code < 0x80:
        scratch[size] = code
        return size + 1
    if code < 0x800:
        scratch[size] = 0xC0 | (code >> 6)
    else:
        if code < 0x10000:
            scratch[size] = 0xE0 | (code >> 12)
        else:
            scratch[size] = 0xF0 | (code >> 18)
            size += 1
            scratch[size] = 0x80 | ((code >> 12) & 0x3F)
        size += 1
        scratch[size] = 0x80 | ((code >> 6) & 0x3F)
    scratch[size + 1] = 0x80 | (code & 0x3F)
    return size + 2
