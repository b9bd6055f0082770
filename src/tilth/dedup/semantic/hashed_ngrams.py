"""An embedding that needs no model: hashed character n-grams, projected at random onto a few hundred dimensions.

It tells how alike the wording of two texts is, not their meaning: for tests, for machines without a model, and as a floor
that any trained embedding must beat.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tilth.errors import RecipeError

_FACTORS = (0x9E3779B97F4A7C15, 0xD1B54A32D192ED03)  # odd, of 64 bits: the golden ratio's, and any other
_SALT = 0xBF58476D1CE4E5B9


@dataclass(frozen=True)
class HashedNgrams:
    """Texts to float32 [n, dimension]: the signed hashes of all byte n-grams of the lower-case text, weighted by root counts.

    Feature hashing with signs (Weinberger et al. 2009) keeps scalar products in expectation. Runs of white space count as
    one space. A text without an n-gram has zeros. The same on every machine.
    """

    dimension: int = 256  # a power of two
    sizes: tuple[int, ...] = (4, 7)  # of n-grams, in bytes of UTF-8, at most 8

    def __post_init__(self) -> None:
        if self.dimension < 2 or self.dimension & (self.dimension - 1):
            raise RecipeError("`dimension` must be a power of two", where=str(self), fix="for example 256")
        if not self.sizes or not all(1 <= size <= 8 for size in self.sizes):
            raise RecipeError("`sizes` must lie between 1 and 8", where=str(self), fix="for example (4, 7)")

    def __call__(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """The embeddings of `texts`, one row each."""
        found = np.zeros((len(texts), self.dimension), np.float32)
        for row, text in enumerate(texts):
            found[row] = self._embed(" ".join(text.lower().split()).encode())
        return found

    def _embed(self, text: bytes) -> npt.NDArray[np.float32]:
        characters = np.frombuffer(text, np.uint8).astype(np.uint64)
        sums = np.zeros(self.dimension)
        bits = np.uint64(65 - self.dimension.bit_length())
        for size in self.sizes:
            grams = np.full(max(0, len(characters) - size + 1), (size * _SALT) & (2**64 - 1), np.uint64)
            for place in range(size):
                grams ^= characters[place : place + len(grams)] << np.uint64(8 * place)
            hashes, counts = np.unique(grams * np.uint64(_FACTORS[0]), return_counts=True)
            hashes ^= hashes >> np.uint64(32)
            hashes *= np.uint64(_FACTORS[1])
            sign = 1.0 - 2.0 * ((hashes >> np.uint64(20)) & np.uint64(1)).astype(np.float64)
            sums += np.bincount((hashes >> bits).astype(np.int64), sign * np.sqrt(counts), self.dimension)
        return sums.astype(np.float32)
