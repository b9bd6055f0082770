"""Naive Bayes over tokens: which of the few languages that share an extension, a file name or an interpreter."""

from __future__ import annotations

import json
import lzma
import re
from collections import Counter
from collections.abc import Sequence
from functools import cache
from math import log1p
from pathlib import Path

HERE = Path(__file__).parent
CONSIDERED_BYTES = 16 << 10
TOKEN = re.compile(rb"[#@$%&\\.]?[A-Za-z_][A-Za-z0-9_]{0,31}|[^\sA-Za-z0-9_]{1,2}")
UNIT = 100  # scores are stored as whole hundredths of a natural logarithm


def token_weights(content: bytes) -> dict[str, float]:
    """Words (with the mark before them) and pairs of signs in the first 16 KiB, each with log(1 + its count)."""
    counts = Counter(TOKEN.findall(content, 0, CONSIDERED_BYTES))
    return {token.decode("latin-1"): log1p(count) for token, count in counts.items()}


class Classifier:
    """Logarithms of P(token | language), above that of a token the language was never seen with."""

    def __init__(self, tokens: dict[str, list[int]], unseen: dict[str, int], names: list[str]) -> None:
        self._scores = {token: dict(zip(pairs[::2], pairs[1::2], strict=True)) for token, pairs in tokens.items()}
        self._unseen, self._numbers = unseen, {name: number for number, name in enumerate(names)}

    def best(self, content: bytes, candidates: Sequence[str]) -> str:
        """The likeliest candidate; the earlier one of equals. Candidates without a trained sample come last."""
        weights = token_weights(content)
        known = [name for name in candidates if name in self._numbers] or list(candidates)
        return max(known, key=lambda name: self._score(weights, name)) if len(known) > 1 else known[0]

    def _score(self, weights: dict[str, float], name: str) -> float:
        number, total = self._numbers.get(name, -1), 0.0
        for token, weight in weights.items():
            total += weight * self._scores.get(token, {}).get(number, 0)
        return total + self._unseen.get(name, 0) * sum(weights.values())


@cache
def classifier() -> Classifier:
    """The classifier that scripts/linguist_data.py trained, read once."""
    packed = json.loads(lzma.decompress((HERE / "tokens.json.xz").read_bytes()))
    return Classifier(packed["tokens"], packed["unseen"], packed["names"])
