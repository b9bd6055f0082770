"""The bytes of a cache, exact: what lies in it, what running requests have reserved, and what cannot be evicted now."""

from __future__ import annotations

from dataclasses import dataclass

from tilth.inference.cache.costs import StateCosts


@dataclass
class Ledger:
    """Counts of one cache. Tokens and checkpoints in the tree, how many of them are locked, and bytes reserved beside it."""

    costs: StateCosts
    capacity_bytes: int
    n_tokens: int = 0
    n_checkpoints: int = 0
    n_locked_tokens: int = 0
    n_pinned_checkpoints: int = 0
    reserved_bytes: int = 0

    @property
    def kv_bytes(self) -> int:
        """Keys and values of all edges."""
        return self.costs.kv_bytes * self.n_tokens

    @property
    def checkpoint_bytes(self) -> int:
        """All checkpoints."""
        return self.costs.checkpoint_bytes * self.n_checkpoints

    @property
    def used_bytes(self) -> int:
        """All that counts against the capacity."""
        return self.kv_bytes + self.checkpoint_bytes + self.reserved_bytes

    @property
    def free_bytes(self) -> int:
        """Not used now."""
        return self.capacity_bytes - self.used_bytes

    @property
    def room_bytes(self) -> int:
        """What could be had if all that may be evicted were."""
        fixed = self.costs.size_bytes(self.n_locked_tokens, self.n_pinned_checkpoints)
        return self.capacity_bytes - self.reserved_bytes - fixed
