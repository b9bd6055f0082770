"""Guarded: a policy in a server, where a fault in the order of victims may cost hits and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import TYPE_CHECKING, TypeVar

from tilth.inference.cache.candidates import Candidates, Worth
from tilth.inference.cache.policies.lru import LRU
from tilth.inference.cache.policies.policy import Policy
from tilth.inference.cache.policies.superseded import SupersededFirst
from tilth.inference.cache.tree import Node, Tokens

if TYPE_CHECKING:
    from tilth.inference.cache.matches import Match
    from tilth.inference.cache.prefix_cache import PrefixCache

_Answer = TypeVar("_Answer")


class Guarded(Policy):
    """Follows `policy` until that raises; from then on what is superseded goes first, then the least recently used.

    on_fault is told, once, and `arm` says so. A replay, whose numbers are those of the order it was asked for, takes the policy
    itself.
    """

    def __init__(self, policy: Policy, on_fault: Callable[[Exception], None]) -> None:
        self.policy, self._on_fault = policy, on_fault
        self.name, self.admission, self.touches_path = policy.name, policy.admission, policy.touches_path
        self.has_failed = False
        self._cache: PrefixCache | None = None

    @property
    def arm(self) -> str:
        """The order in use."""
        return self.policy.arm if not self.has_failed else f"{self.policy.arm} ({self.name} failed)"

    def attached(self, cache: PrefixCache) -> None:
        """Raises what the policy raises: nothing is served yet."""
        self._cache = cache
        self.policy.attached(cache)

    def priority(self, node: Node, worth: Worth) -> float:
        """The policy's."""
        return self._ask(lambda policy: policy.priority(node, worth))

    def victim(self, candidates: Candidates, now: float) -> Node:
        """The policy's."""
        return self._ask(lambda policy: policy.victim(candidates, now))

    def used(self, node: Node) -> None:
        """To the policy."""
        self._ask(lambda policy: policy.used(node))

    def missed(self, ticket: int, now: float) -> None:
        """To the policy."""
        self._ask(lambda policy: policy.missed(ticket, now))

    def evicted(self, node: Node, priority: float) -> None:
        """To the policy."""
        self._ask(lambda policy: policy.evicted(node, priority))

    def matched(self, match: Match, tokens: Tokens, now: float) -> None:
        """To the policy."""
        self._ask(lambda policy: policy.matched(match, tokens, now))

    def inserted(self, match: Match, tokens: Tokens, positions: Iterable[int], now: float) -> None:
        """To the policy."""
        self._ask(lambda policy: policy.inserted(match, tokens, positions, now))

    def released(self, match: Match) -> None:
        """To the policy."""
        self._ask(lambda policy: policy.released(match))

    def reserved(self, n_bytes: int) -> None:
        """To the policy."""
        self._ask(lambda policy: policy.reserved(n_bytes))

    def cleared(self, root: Hashable | None) -> None:
        """To the policy."""
        self._ask(lambda policy: policy.cleared(root))

    def _ask(self, what: Callable[[Policy], _Answer]) -> _Answer:
        try:
            return what(self.policy)
        except Exception as error:
            if self.has_failed:
                raise
            self._replace(error)
            return what(self.policy)

    def _replace(self, error: Exception) -> None:
        self.has_failed, self.policy = True, SupersededFirst(LRU())
        self._on_fault(error)
        if self._cache is not None:
            self._cache.reorder()  # the priorities of two orders cannot be compared
