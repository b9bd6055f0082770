"""GreedyDual: what costs most to read again for each byte, and is asked for most often, stays; a clock lets it age."""

from __future__ import annotations

from tilth.inference.cache.candidates import Worth
from tilth.inference.cache.policies.policy import LAST, Policy
from tilth.inference.cache.tree import Node


class GreedyDual(Policy):
    """Lowest clock + frequency * FLOPs / bytes freed first (GreedyDual-Size-Frequency, Cherkasova 1998; GreedyDual, Young 1994).

    The clock is the priority of the last victim; a node's is set when it is used. FLOPs are those that its checkpoint saves
    beyond the next one above it, bytes what its eviction would free, frequency counts the hits along its conversation.
    """

    name = "greedy-dual"

    def __init__(self) -> None:
        self.clock = 0.0

    def priority(self, node: Node, worth: Worth) -> float:
        """FLOPs a byte, above the clock at the last use."""
        value = node.credit + node.frequency * worth.flops / max(1, worth.n_bytes)
        return value + (LAST if worth.n_children > 1 else 0.0)

    def used(self, node: Node) -> None:
        """From now on it ages."""
        node.credit = self.clock

    def evicted(self, node: Node, priority: float) -> None:
        """All that is left was worth more than this."""
        if priority < LAST:
            self.clock = max(self.clock, priority)
