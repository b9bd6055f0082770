"""One document's text and the ways of cutting it that several signals share, each made once and only when asked for.

The definitions of lines, words and normal form are those of RedPajama-V2 (arXiv:2411.12372 and its
published code), because the `rps_*` signals are only comparable with published ones on the same cuts.
"""

from __future__ import annotations

import string
import unicodedata
from collections import Counter
from collections.abc import Mapping
from functools import cached_property
from typing import Any

_ASCII_PUNCTUATION = string.punctuation.encode("ascii")


class TextView:
    """A text with lazily made lines and normalised words; `fields` holds what else a family asked for."""

    def __init__(self, text: str, fields: Mapping[str, Any] | None = None) -> None:
        self.text = text
        self.fields = fields or {}

    @cached_property
    def lines(self) -> list[str]:
        """Lines without their newline. Only `\\n` ends a line; a last newline opens no further line."""
        lines = self.text.split("\n")
        if not lines[-1]:
            lines.pop()
        return lines

    @cached_property
    def normalized(self) -> str:
        """Without ASCII punctuation, lower case, single spaces, canonically decomposed (NFD)."""
        return normalize(self.text)

    @cached_property
    def words(self) -> list[str]:
        """The words of the normal form."""
        return self.normalized.split()

    @cached_property
    def char_counts(self) -> Counter[str]:
        """How often each character occurs."""
        return Counter(self.text)


def normalize(text: str) -> str:
    """RedPajama-V2's normal form: see `TextView.normalized`."""
    # ASCII bytes occur in UTF-8 only as themselves, and deleting bytes is far faster than str.translate.
    bare = text.encode("utf-8").translate(None, _ASCII_PUNCTUATION).decode("utf-8")
    return unicodedata.normalize("NFD", " ".join(bare.lower().split()))
