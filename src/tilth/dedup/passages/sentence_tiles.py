"""Cuts texts into sentences that lie side by side: every character belongs to one, white space to the sentence before it.

A sentence ends
- at a newline;
- after `. ! ?`, the ellipsis and their like in other scripts, with closing quotes and brackets, where white space follows;
- after the full stops of Chinese and Japanese, with closing quotes and brackets, whatever follows.

Abbreviations end sentences too: what matters is that copies of a passage are cut alike. What has no word in its normal form
(a row of stars, a blank line) is no sentence and belongs to the one before it, at the start of a text to the first.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from numba import njit

from tilth.dedup.texts.buffers import Bytes, Utf8, utf8
from tilth.dedup.texts.hashing import Hashes, hashes128
from tilth.dedup.texts.normal_text import fold
from tilth.dedup.texts.spaceless import spaceless_codes
from tilth.dedup.texts.tokens import decode

Ints = npt.NDArray[np.int32]
_STOPS = ".!?…‼⁇⁈⁉؟۔։።။។।॥"
_WIDE_STOPS = "。！？｡．"
_CLOSERS = "\"')]}”’»›」』）］】》〉〟"
_OTHER, _STOP, _WIDE_STOP, _CLOSER, _SPACE, _NEWLINE = range(6)


class Tiles(NamedTuple):
    """Sentences of some texts in order; `n_sentences` and `n_chars` have a value for each text, the others for each sentence."""

    hashes: Hashes  # of the normal form
    starts: Ints  # in characters of the text; a text's first sentence starts at 0, and each ends where the next starts
    n_words: Ints
    n_sentences: Ints
    n_chars: Ints


def sentence_tiles(texts: pa.Array | pa.ChunkedArray, by_line: bool = False) -> Tiles:
    """The sentences of each of `texts` (string or large_string; a null counts as empty); with `by_line` its lines.

    Words are counted in the normal form: what spaces part, and each character of a script that writes none.
    Memory: 45 bytes a sentence and four times the texts.
    """
    given = utf8(texts)
    most = len(given.data) + len(given)
    ends, starts = np.empty(most + 1, np.int64), np.empty(most, np.int32)
    n_tiles, n_chars = np.zeros(len(given), np.int32), np.zeros(len(given), np.int32)
    n_total = _cut(given.data, given.offsets, _kinds(), by_line, ends, starts, n_tiles, n_chars)
    folded = fold(Utf8(given.data, ends[: n_total + 1]))
    n_words = _count_words(folded.data, folded.offsets, spaceless_codes())
    kept = n_words > 0
    texts_of_tiles = np.repeat(np.arange(len(given)), n_tiles)[kept]
    own_starts = starts[:n_total][kept]
    own_starts[np.flatnonzero(np.diff(texts_of_tiles, prepend=-1))] = 0
    n_sentences = np.bincount(texts_of_tiles, minlength=len(given)).astype(np.int32)
    return Tiles(hashes128(folded)[kept, 0], own_starts, n_words[kept], n_sentences, n_chars)


@cache
def _kinds() -> Bytes:
    kinds = np.zeros(0x10000, np.uint8)
    for kind, chars in ((_STOP, _STOPS), (_WIDE_STOP, _WIDE_STOPS), (_CLOSER, _CLOSERS)):
        kinds[list(map(ord, chars))] = kind
    kinds[[code for code in range(0x10000) if chr(code).isspace()]] = _SPACE
    kinds[10] = _NEWLINE
    return kinds


@njit(cache=True, nogil=True)
def _cut(data, offsets, kinds, by_line, ends, starts, n_tiles, n_chars):  # type: ignore[no-untyped-def]
    """Ends (bytes) and starts (characters of the text) of pieces; gives how many there are."""
    count = 0
    ends[0] = 0
    for text in range(len(offsets) - 1):
        at, end = offsets[text], offsets[text + 1]
        first = count
        chars = 0
        starts[count] = 0
        after_stop = after_wide = is_over = False
        while at < end:
            code, width = decode(data, at)
            kind = kinds[code] if code < len(kinds) else _OTHER
            if kind == _NEWLINE:
                is_over = True
            elif kind == _SPACE:
                is_over |= (after_stop or after_wide) and not by_line
            else:
                is_over |= after_wide and not by_line and kind == _OTHER
                if is_over:
                    ends[count + 1] = at
                    count += 1
                    starts[count] = chars
                    after_stop = after_wide = is_over = False
                if kind == _STOP:
                    after_stop = True
                elif kind == _WIDE_STOP:
                    after_wide = True
                elif kind == _OTHER:
                    after_stop = after_wide = False
            at += width
            chars += 1
        ends[count + 1] = end
        count += 1
        n_tiles[text], n_chars[text] = count - first, chars
    return count


@njit(cache=True, nogil=True)
def _count_words(data, offsets, spaceless):  # type: ignore[no-untyped-def]
    counts = np.zeros(len(offsets) - 1, np.int32)
    for piece in range(len(counts)):
        at, end = offsets[piece], offsets[piece + 1]
        in_word = False
        while at < end:
            code, width = decode(data, at)
            at += width
            if code == 32:
                in_word = False
            elif spaceless[code]:
                counts[piece] += 1
                in_word = False
            elif not in_word:
                counts[piece] += 1
                in_word = True
    return counts
