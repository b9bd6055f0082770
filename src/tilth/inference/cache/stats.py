"""What a cache has counted since it was made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass, field

from tilth.inference.engine.requests import MissReason

MAX_ROOTS = 4096


@dataclass
class RootStats:
    """Tokens of the inputs of one root, and those of them that were reused."""

    n_asked: int = 0
    n_hit: int = 0


@dataclass
class CacheStats:
    """evictions by what went: "leaf" (keys, and a state if there was one), "state" alone, "superseded" state.

    by_root holds the MAX_ROOTS that were met last; older ones are in the totals alone. FLOPs are of the inputs.
    """

    n_matches: int = 0
    n_asked: int = 0
    n_hit: int = 0
    saved_flops: float = 0.0
    evictions: Counter[str] = field(default_factory=Counter)
    misses: Counter[MissReason] = field(default_factory=Counter)
    by_root: dict[Hashable, RootStats] = field(default_factory=dict)
    arm: str = ""

    def count(self, root: Hashable, n_asked: int, n_hit: int, saved_flops: float, reason: MissReason) -> None:
        """One match."""
        self.n_matches += 1
        of_root = self.by_root[root] = self.by_root.pop(root, RootStats())
        if len(self.by_root) > MAX_ROOTS:
            del self.by_root[next(iter(self.by_root))]
        for part in (self, of_root):
            part.n_asked += n_asked
            part.n_hit += n_hit
        self.saved_flops += saved_flops
        self.misses[reason] += 1
