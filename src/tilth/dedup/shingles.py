"""Turns texts into sets of hashed word n-grams, the sets whose Jaccard similarity decides what is a near-duplicate.

Tokens: the text in Unicode's composed form (NFC), lower case; each character of a script that is written without
spaces (Chinese, Japanese, Thai, Lao, Khmer, Burmese and kin) is a token, and otherwise each run of letters, digits and
underscores. White space and punctuation only separate. Shingles: all sequences of n tokens; a text with fewer tokens
has one shingle, the whole sequence, and thus equals only texts with the same tokens; a text without tokens has none.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tilth.dedup.sorted_arrays import distinct

Hashes = npt.NDArray[np.uint64]

_SPACELESS = (
    r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u1950-\u19df\u1a20-\u1aaf\ua9e0-\ua9ff\uaa60-\uaadf"
    r"\u2e80-\u2fdf\u3005-\u3007\u3021-\u3029\u3040-\u30ff\u3100-\u312f\u31a0-\u31bf\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    r"\uf900-\ufaff\uff66-\uff9f\U0001b000-\U0001b16f\U00020000-\U000323af"
)
_TOKEN = re.compile(rf"[{_SPACELESS}]|[^\W{_SPACELESS}]+")
_MAX_TOKENS_KEPT = 1_000_000
_ASCII_TOKEN = re.compile(r"[a-z0-9_]+")
# Odd 64-bit constants (splitmix64's, Steele, Lea and Flood 2014); any odd ones would do.
_MULTIPLIER, _MIXER = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def tokens(text: str) -> list[str]:
    """The tokens of a text, as said above."""
    if text.isascii():
        return _ASCII_TOKEN.findall(text.lower())
    # Lower-casing can decompose (dotted capital I), so the composed form is made after it.
    return _TOKEN.findall(unicodedata.normalize("NFC", text.lower()))


class Shingler:
    """Makes shingle sets of n-token sequences; keeps the hashes of tokens it has met, so use one for many texts."""

    def __init__(self, n: int) -> None:
        self.n = n
        self._hashes: dict[str, int] = {}

    def shingle_sets(self, texts: Sequence[str]) -> list[Hashes]:
        """For each text the ascending distinct 64-bit hashes of its shingles (an empty array without tokens)."""
        token_lists = [tokens(text) for text in texts]
        lengths = np.array([len(found) for found in token_lists], dtype=np.int64)
        hashes = self._token_hashes(token_lists, int(lengths.sum()))
        ends = np.cumsum(lengths)
        return [self._distinct(hashes[end - length : end]) for end, length in zip(ends, lengths)]

    def _token_hashes(self, token_lists: list[list[str]], n_tokens: int) -> Hashes:
        known = self._hashes
        if len(known) > _MAX_TOKENS_KEPT:
            known.clear()
        for new in {token for found in token_lists for token in found}.difference(known):
            known[new] = int.from_bytes(hashlib.blake2b(new.encode(), digest_size=8).digest(), "little")
        return np.fromiter((known[token] for found in token_lists for token in found), dtype=np.uint64, count=n_tokens)

    def _distinct(self, token_hashes: Hashes) -> Hashes:
        width = min(self.n, len(token_hashes))
        if not width:
            return token_hashes
        n_shingles = len(token_hashes) - width + 1
        # The width is part of the hash: a whole short text never equals a part of a long one.
        state = np.full(n_shingles, width, dtype=np.uint64)
        for offset in range(width):
            state ^= token_hashes[offset : offset + n_shingles]
            state *= _MULTIPLIER
            state ^= state >> np.uint64(32)
        return distinct(mix(state))


def mix(state: Hashes) -> Hashes:
    """Spread the bits of 64-bit values; a bijection."""
    state = (state ^ (state >> np.uint64(30))) * _MULTIPLIER
    state = (state ^ (state >> np.uint64(27))) * _MIXER
    return state ^ (state >> np.uint64(31))
