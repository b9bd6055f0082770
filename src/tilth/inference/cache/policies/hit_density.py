"""What is least likely to return soon, for the FLOPs that it saves and the bytes that it takes, goes first."""

from __future__ import annotations

import numpy as np

from tilth.inference.cache.candidates import Candidates, Worth
from tilth.inference.cache.policies.policy import LAST, Policy
from tilth.inference.cache.policies.return_times import ReturnTimes, age_bin
from tilth.inference.cache.tree import Node

N_LOOKED_AT = 8_192
USES_BETWEEN_UPDATES = 32
# Kinds: ends of conversations by the logarithm of their turns, what one went on from, the end after a cut, branch points by use.
N_END_KINDS, LEFT, CUT, BRANCH, N_BRANCH_KINDS = 4, 4, 5, 6, 3


class HitDensity(Policy):
    """Lowest rate of return * FLOPs saved / bytes freed first (after Least Hit Density, Beckmann et al., NSDI 2018).

    The rate is ReturnTimes' of the state's kind at its age. It learns from evicted states as from those that are there, because
    the cache remembers their tokens. Among more than N_LOOKED_AT candidates it looks at so many, others each time.
    """

    name = "hit-density"

    def __init__(self) -> None:
        self.returns = ReturnTimes(BRANCH + N_BRANCH_KINDS)
        self._n_uses = 0
        self._stride = 1
        self._offset = 0

    def priority(self, node: Node, worth: Worth) -> float:
        """FLOPs for each byte; the rate, which changes with time, is multiplied when a victim is sought."""
        return worth.flops / max(1, worth.n_bytes) + (LAST if worth.n_children > 1 else 0.0)

    def victim(self, candidates: Candidates, now: float) -> Node:
        """The lowest product; of nodes with several children the oldest when no other is left."""
        self._stride = 1 + len(candidates) // 1024
        if len(candidates) <= N_LOOKED_AT:
            return self._lowest(candidates, slice(0, len(candidates)), now) or candidates.lowest()
        self._offset = (self._offset + N_LOOKED_AT) % len(candidates)
        start = min(self._offset, len(candidates) - N_LOOKED_AT)
        return self._lowest(candidates, slice(start, start + N_LOOKED_AT), now) or candidates.lowest()

    def used(self, node: Node) -> None:
        """Ends its idle time and begins another."""
        if not node.has_checkpoint:
            return
        now = node.last_use
        self.returns.end(node.ticket, now, has_returned=True)
        self._n_uses += 1
        node.kind = _kind(node)
        # the ring must span the life of what is here
        node.ticket = -1 if self._n_uses % self._stride else self.returns.begin(node.kind, now)
        if self._n_uses % USES_BETWEEN_UPDATES == 0:
            self.returns.update(now)

    def missed(self, ticket: int, now: float) -> None:
        """It would have been reused."""
        self.returns.end(ticket, now, has_returned=True)

    def _lowest(self, candidates: Candidates, rows: slice, now: float) -> Node | None:
        value_N = candidates.priority[rows]
        rate_N = self.returns.rates[candidates.kind[rows], age_bin(now - candidates.last_use[rows])]
        score_N = np.where(value_N < LAST, value_N * rate_N, np.inf)
        lowest = int(score_N.argmin())
        return candidates.nodes[rows.start + lowest] if np.isfinite(score_N[lowest]) else None


def _kind(node: Node) -> int:
    if node.has_branched:
        return BRANCH + min(node.n_uses, N_BRANCH_KINDS - 1)
    if node.n_uses:
        return LEFT
    if node.follows_cut:
        return CUT
    return min(node.frequency.bit_length(), N_END_KINDS) - 1
