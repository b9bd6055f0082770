"""Policy: what goes first when room is needed, and what it hears of the traffic to decide that."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import TYPE_CHECKING

from tilth.inference.cache.admission import Admission
from tilth.inference.cache.candidates import Candidates, Worth
from tilth.inference.cache.tree import Node, Tokens

if TYPE_CHECKING:
    from tilth.inference.cache.matches import Match
    from tilth.inference.cache.prefix_cache import PrefixCache

# Added to the priority of nodes that go when no other is left; sums with counts below it stay exact.
LAST = 2.0**52


class Policy:
    """An order of victims for one cache. A policy must decide by what it is told alone, so that a replay repeats itself.

    touches_path: a hit refreshes all nodes down to the one that is used (as caches for attention do), not this alone.
    """

    name = "policy"
    admission = Admission()
    touches_path = False

    def priority(self, node: Node, worth: Worth) -> float:
        """The lower, the sooner it goes. Asked whenever something about the node has changed."""
        raise NotImplementedError

    def victim(self, candidates: Candidates, now: float) -> Node:
        """The next to go; there is at least one candidate."""
        return candidates.lowest()

    def used(self, node: Node) -> None:
        """Its checkpoint was reused, or has come; node.last_use is now."""

    def missed(self, ticket: int, now: float) -> None:
        """What was asked for was evicted: a leaf with this node.ticket."""

    def evicted(self, node: Node, priority: float) -> None:
        """It goes."""

    def attached(self, cache: PrefixCache) -> None:
        """Called once, by the cache that this policy orders. Raises UserError where it already has one."""

    def matched(self, match: Match, tokens: Tokens, now: float) -> None:
        """After each match."""

    def inserted(self, match: Match, tokens: Tokens, positions: Iterable[int], now: float) -> None:
        """After each insert."""

    def released(self, match: Match) -> None:
        """After each release."""

    def cleared(self, root: Hashable | None) -> None:
        """After all that nobody uses was dropped, of one root or of all (None)."""

    def reserved(self, n_bytes: int) -> None:
        """After each reserve and give_back: so many are reserved now."""

    @property
    def arm(self) -> str:
        """Which order is in use now."""
        return self.name
