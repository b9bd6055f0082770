"""The paper's whole policy: its order, and its weight tuned once from the requests that followed the first eviction."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import TYPE_CHECKING

from tilth.inference.cache.matches import Match
from tilth.inference.cache.policies.flop_aware import FlopAware
from tilth.inference.cache.shadow import Shadow
from tilth.inference.cache.tree import Node, Tokens

if TYPE_CHECKING:
    from tilth.inference.cache.prefix_cache import PrefixCache

ALPHAS = tuple(k / 10 for k in range(21))


class TunedFlopAware(FlopAware):
    """FlopAware with alpha 0 until the first eviction, and from then on for `bootstrap` times the requests that came before.

    These are then replayed on a copy of the tree as it was at the first eviction, once for each of ALPHAS, and the alpha that
    saves most FLOPs is kept for good, of equal ones the smallest (arXiv 2411.19379, 4.3). The paper replays beside the
    server, on other cores; here the match that ends the bootstrap waits for it.
    """

    def __init__(self, bootstrap: float = 5.0, is_inverse: bool = False) -> None:
        super().__init__(0.0, is_inverse)
        self.name = "flop-aware-tuned"
        self.bootstrap = bootstrap
        self.is_tuned = False
        self._cache: PrefixCache | None = None
        self._before: PrefixCache | None = None  # the tree at the first eviction
        self._n_before = self._n_after = 0
        self._log: list[Callable[[Shadow], None]] = []

    def attached(self, cache: PrefixCache) -> None:
        """Remember whose tree to copy."""
        super().attached(cache)
        self._cache = cache

    def evicted(self, node: Node, priority: float) -> None:
        """The first time, copy the tree."""
        if self._before is None and self._cache is not None:
            self._before = self._cache.shadow(FlopAware(0.0, self.is_inverse), with_contents=True)

    def matched(self, match: Match, tokens: Tokens, now: float) -> None:
        """Count, log, and tune when there is enough."""
        if self.is_tuned:
            return
        if self._before is None:
            self._n_before += 1
            return
        if self._n_after >= self.bootstrap * self._n_before:
            self._tune(self._before)
            return
        self._n_after += 1
        self._log.append(lambda shadow: shadow.matched(match, tokens, now))

    def inserted(self, match: Match, tokens: Tokens, positions: Iterable[int], now: float) -> None:
        """Log."""
        if self._before is not None and not self.is_tuned:
            at = tuple(positions)
            self._log.append(lambda shadow: shadow.inserted(match, tokens, at, now))

    def released(self, match: Match) -> None:
        """Log."""
        if self._before is not None and not self.is_tuned:
            self._log.append(lambda shadow: shadow.released(match))

    def cleared(self, root: Hashable | None) -> None:
        """Log."""
        if self._before is not None and not self.is_tuned:
            self._log.append(lambda shadow: shadow.cleared(root))

    def _tune(self, before: PrefixCache) -> None:
        saved = {alpha: self._replay(before, alpha) for alpha in ALPHAS}
        self.alpha = max(ALPHAS, key=lambda alpha: (saved[alpha], -alpha))
        self.is_tuned, self._before, self._cache = True, None, None
        self._log.clear()

    def _replay(self, before: PrefixCache, alpha: float) -> float:
        shadow = Shadow(before.shadow(FlopAware(alpha, self.is_inverse), with_contents=True))
        for event in self._log:
            event(shadow)
        return shadow.saved_flops
