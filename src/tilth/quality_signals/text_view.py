"""One document's text and the ways of cutting it that several signals share, each made once and only when asked for.

The definitions of lines, words and normal form are those of RedPajama-V2 (arXiv:2411.12372 and its
published code), because the `rps_*` signals are only comparable with published ones on the same cuts.
"""

from __future__ import annotations

import string
import unicodedata
from collections import Counter
from functools import cached_property

import numpy as np
import numpy.typing as npt

from tilth.quality_signals.raw_words import raw_words

_ASCII_PUNCTUATION = string.punctuation.encode("ascii")


class TextView:
    """A text with lazily made lines, raw words and normalised words."""

    def __init__(self, text: str) -> None:
        self.text = text

    @cached_property
    def lines(self) -> list[str]:
        """Lines without their newline. Only `\\n` ends a line; a last newline opens no further line."""
        lines = self.text.split("\n")
        if not lines[-1]:
            lines.pop()
        return lines

    @cached_property
    def raw_word_counts(self) -> Counter[str]:
        """How often each run of word characters, or of neither word nor space characters, occurs."""
        return Counter(raw_words(self.text))

    @cached_property
    def n_raw_words(self) -> int:
        """Number of raw words with repetitions."""
        return sum(self.raw_word_counts.values())

    @cached_property
    def normalized(self) -> str:
        """Without ASCII punctuation, lower case, single spaces, canonically decomposed (NFD)."""
        return normalize(self.text)

    @cached_property
    def words(self) -> list[str]:
        """The words of the normal form."""
        return self.normalized.split()

    @cached_property
    def word_ids(self) -> npt.NDArray[np.int64]:
        """Each word as the number of distinct words seen before its first occurrence."""
        ids: dict[str, int] = {}
        return np.array([ids.setdefault(word, len(ids)) for word in self.words], dtype=np.int64)

    @cached_property
    def word_lengths(self) -> npt.NDArray[np.int64]:
        """Length of each word in code points."""
        return np.fromiter(map(len, self.words), dtype=np.int64, count=len(self.words))

    @cached_property
    def char_counts(self) -> Counter[str]:
        """How often each character occurs."""
        return Counter(self.text)


def normalize(text: str) -> str:
    """RedPajama-V2's normal form: see `TextView.normalized`."""
    # ASCII bytes occur in UTF-8 only as themselves, and deleting bytes is far faster than str.translate.
    bare = text.encode("utf-8").translate(None, _ASCII_PUNCTUATION).decode("utf-8")
    return unicodedata.normalize("NFD", " ".join(bare.lower().split()))
