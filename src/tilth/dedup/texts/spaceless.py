"""Scripts that write no spaces between words: each of their characters counts as a word."""

from __future__ import annotations

import sys
from functools import cache

import numpy as np

from tilth.dedup.texts.buffers import Bytes

# Thai to Tibetan, Myanmar, Khmer, Tai scripts, Han with radicals and signs, kana, bopomofo, Yi.
SPACELESS_RANGES = (
    (0xE00, 0xFFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x1950, 0x19DF), (0x1A20, 0x1AAF), (0x2E80, 0x2FDF), (0x3005, 0x3007),
    (0x3021, 0x3029), (0x3040, 0x312F), (0x31A0, 0x31BF), (0x31F0, 0x31FF), (0x3400, 0x4DBF), (0x4E00, 0xA4CF),
    (0xA9E0, 0xA9FF), (0xAA60, 0xAADF), (0xF900, 0xFAFF), (0xFF66, 0xFF9F), (0x1B000, 0x1B16F), (0x20000, 0x323AF),
)  # fmt: skip


@cache
def spaceless_codes() -> Bytes:
    """For each code point 1 where its script writes no spaces, else 0."""
    codes = np.zeros(sys.maxunicode + 1, np.uint8)
    for first, last in SPACELESS_RANGES:
        codes[first : last + 1] = 1
    return codes
