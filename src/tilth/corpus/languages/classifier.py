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
    """Scores languages by the sum of weight * log P(token | language), in hundredths.

    `tokens` holds, for each language that a token was seen in, how far its logarithm is above `unseen`, that of a token
    the language was never seen with."""

    def __init__(self, names: list[str], unseen: dict[str, int], tokens: dict[str, list[int]]) -> None:
        self._numbers = {name: number for number, name in enumerate(names)}
        self._unseen = unseen
        self._above = {token: dict(zip(pairs[::2], pairs[1::2], strict=True)) for token, pairs in tokens.items()}

    def best(self, content: bytes, candidates: Sequence[str]) -> str:
        """The likeliest candidate, the earlier one of equals; one without samples only where all are."""
        known = [name for name in candidates if name in self._numbers]
        if not known:
            return candidates[0]
        weights = token_weights(content)
        total = sum(weights.values())
        above = [(weight, scores) for token, weight in weights.items() if (scores := self._above.get(token))]

        def score(name: str) -> float:
            number = self._numbers[name]
            return total * self._unseen[name] + sum(w * scores.get(number, 0) for w, scores in above)

        return max(known, key=score)


@cache
def classifier() -> Classifier:
    """The classifier that scripts/linguist_data.py trained, read once."""
    packed = json.loads(lzma.decompress((HERE / "tokens.json.xz").read_bytes()))
    return Classifier(**packed)
