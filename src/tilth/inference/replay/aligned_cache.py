"""Block-aligned reuse, as block-wise engines of today do it: keys, values and states exist only at multiples of N tokens.

A state is kept after the last full block of a request and at a junction: the last full block that an earlier request shares
where its keys reach further than any state. The ledger and the tree are the PrefixCache's own; only positions are rounded down.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tilth.inference.cache.matches import Match
from tilth.inference.cache.prefix_cache import PrefixCache

GRID = 512


@dataclass(frozen=True)
class AlignedMatch:
    """The tree's own match, and the junction where the prefill is cut."""

    inner: Match
    cut: int | None

    @property
    def n_tokens(self) -> int:
        """Tokens that are reused: a multiple of the grid."""
        return self.inner.n_tokens


class AlignedCache:
    """The three calls of a PrefixCache with positions on a grid of `grid` tokens."""

    def __init__(self, cache: PrefixCache, grid: int = GRID) -> None:
        self.cache, self.grid, self.capacity_bytes = cache, grid, cache.capacity_bytes

    @property
    def used_bytes(self) -> int:
        """Of the ledger."""
        return self.cache.used_bytes

    @property
    def n_evicted(self) -> int:
        """Leaves and states that went."""
        return self.cache.n_evicted

    def match(self, root: Hashable, tokens: np.ndarray, now: float) -> AlignedMatch:
        """As PrefixCache.match; the cut is a whole number of blocks, or None where that gains nothing."""
        inner = self.cache.match(root, tokens, now)
        cut = self._floor(min(inner.n_known, len(tokens) - 1))
        return AlignedMatch(inner, cut if cut > inner.n_tokens else None)

    def insert(self, match: AlignedMatch, tokens: np.ndarray, slots: None, checkpoints: Mapping[int, Any], now: float) -> None:
        """As PrefixCache.insert, of the full blocks alone."""
        on_grid = {self._floor(at): state for at, state in checkpoints.items() if self._floor(at)}
        self.cache.insert(match.inner, tokens[: self._floor(len(tokens))], None, on_grid, now)

    def release(self, match: AlignedMatch) -> None:
        """As PrefixCache.release."""
        self.cache.release(match.inner)

    def _floor(self, position: int) -> int:
        return position // self.grid * self.grid
