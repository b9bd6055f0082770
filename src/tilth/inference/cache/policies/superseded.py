"""A conversation's earlier checkpoints go before all else."""

from __future__ import annotations

from tilth.inference.cache.candidates import Candidates, Worth
from tilth.inference.cache.policies.policy import LAST, Policy
from tilth.inference.cache.tree import Node


class SupersededFirst(Policy):
    """What is superseded goes first, the least recently used of it before; `base` orders the rest.

    A checkpoint is superseded when the conversation went on from it: its one child has a later one, it never was a branch
    point, and it was reused at most once, by that child. Who comes back to the conversation comes back to its end.
    """

    def __init__(self, base: Policy) -> None:
        self.base = base
        self.name = f"superseded+{base.name}"
        self.touches_path = base.touches_path

    @property
    def arm(self) -> str:
        """With that of the base."""
        return f"superseded+{self.base.arm}"

    def priority(self, node: Node, worth: Worth) -> float:
        """Below 0 for what is superseded."""
        return node.tick - LAST if worth.is_superseded else self.base.priority(node, worth)

    def victim(self, candidates: Candidates, now: float) -> Node:
        """The oldest that is superseded, else the base's."""
        lowest = candidates.lowest()
        return lowest if candidates.priority[lowest.row] < 0 else self.base.victim(candidates, now)

    def used(self, node: Node) -> None:
        """As the base."""
        self.base.used(node)

    def evicted(self, node: Node, priority: float) -> None:
        """The base hears of its own victims alone."""
        if priority >= 0:
            self.base.evicted(node, priority)

    def missed(self, ticket: int, now: float) -> None:
        """As the base."""
        self.base.missed(ticket, now)
