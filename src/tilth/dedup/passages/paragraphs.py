"""Hashes of paragraphs: runs of lines that hold something, with the blank lines after them.

A blank line has only white space (so CRLF files have blank lines, too). Paragraphs are compared by their normal texts
(normal_text.py), so they stay the same when they are wrapped otherwise. Blank lines at the start of a text are a piece of
their own, which is empty, as is a paragraph of punctuation alone.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numba import njit

from tilth.dedup.passages.line_hashes import EMPTY_LINE, Lines
from tilth.dedup.texts.buffers import Utf8, utf8
from tilth.dedup.texts.hashing import hashes128
from tilth.dedup.texts.normal_text import fold
from tilth.dedup.texts.tokens import decode


def hash_paragraphs(texts: pa.Array | pa.ChunkedArray) -> Lines:
    """Hash every paragraph of `texts` (string or large_string; a null counts as empty), in the form of `hash_lines`.

    Paragraphs follow on each other with a newline between, which is not counted; an empty text has one. A paragraph without
    anything in its normal form has the hash EMPTY_LINE.
    """
    given = utf8(texts)
    most = int((given.data == 10).sum()) + len(given)
    ends, n_chars = np.empty(most + 1, np.int64), np.empty(most, np.int32)
    n_paragraphs = np.zeros(len(given), np.int32)
    n_total = _cut(given.data, given.offsets, ends, n_chars, n_paragraphs)
    folded = fold(Utf8(given.data, ends[: n_total + 1]))
    hashes = hashes128(folded)[:, 0].copy()
    hashes[np.diff(folded.offsets) == 0] = EMPTY_LINE
    return Lines(hashes, n_chars[:n_total].copy(), n_paragraphs)


@njit(cache=True, nogil=True)
def _cut(data, offsets, ends, n_chars, n_paragraphs):  # type: ignore[no-untyped-def]
    """Where paragraphs end (bytes, with the newline after each but the last of a text) and their characters without it."""
    count = 0
    ends[0] = 0
    for text in range(len(offsets) - 1):
        at, end = offsets[text], offsets[text + 1]
        first = count
        chars = 0
        was_blank = False
        while True:
            line, line_chars, blank = at, 0, True
            while at < end and data[at] != 10:
                blank &= _is_space(data, at)
                line_chars += 1
                at += 1
                while at < end and (data[at] & 0xC0) == 0x80:
                    at += 1
            if not blank and was_blank:
                ends[count + 1], n_chars[count] = line, chars - 1
                count += 1
                chars = 0
            was_blank = blank
            chars += line_chars
            if at >= end:
                break
            chars += 1
            at += 1
        ends[count + 1], n_chars[count] = end, chars
        count += 1
        n_paragraphs[text] = count - first
    return count


@njit(cache=True, nogil=True, inline="always")
def _is_space(data, at):  # type: ignore[no-untyped-def]
    """Whether the character that begins at `at` is white space (`str.isspace`)."""
    byte = data[at]
    if byte < 0x80:
        return byte == 32 or 9 <= byte <= 13 or 28 <= byte <= 31
    code, _ = decode(data, at)
    if code == 0x85 or code == 0xA0 or 0x2000 <= code <= 0x200A:
        return True
    return code == 0x1680 or code == 0x2028 or code == 0x2029 or code == 0x202F or code == 0x205F or code == 0x3000
