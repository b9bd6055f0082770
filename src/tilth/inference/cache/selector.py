"""Selector: the order that saves most on the traffic at hand, found by shadow caches that try each of them all the time."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import TYPE_CHECKING

from tilth.errors import UserError
from tilth.inference.cache.admission import Admission
from tilth.inference.cache.candidates import Candidates, Worth
from tilth.inference.cache.matches import Match
from tilth.inference.cache.policies.flop_aware import FlopAware
from tilth.inference.cache.policies.hit_density import HitDensity
from tilth.inference.cache.policies.lru import LRU
from tilth.inference.cache.policies.policy import Policy
from tilth.inference.cache.policies.superseded import SupersededFirst
from tilth.inference.cache.shadow import Shadow
from tilth.inference.cache.tree import Node, Tokens

if TYPE_CHECKING:
    from tilth.inference.cache.prefix_cache import PrefixCache

ARMS: tuple[Callable[[], Policy], ...] = (
    lambda: SupersededFirst(HitDensity()),
    lambda: SupersededFirst(LRU()),
    lambda: SupersededFirst(FlopAware(1.0)),
)
MAX_SHADOW_CHECKPOINTS = 512
HASHED_TOKENS = 1024


class Selector(Policy):
    """Uses one of `arms` at a time: the first, until another has saved more.

    A shadow for each arm sees a sample of the conversations, chosen by a hash of the root and their first HASHED_TOKENS tokens,
    under the same share of the capacity: all of them for a cache of up to MAX_SHADOW_CHECKPOINTS checkpoints, else so few that
    a shadow holds about as many. What each saves fades with a half-life of `half_life` sampled requests; the arm in use changes
    when another is ahead by `margin` and by `sigmas` standard errors, at most once in a quarter of a half-life. Each request
    that is sampled costs about 0.2 ms for each arm; a change of arms 2 microseconds for each node of the cache. Nothing is
    drawn: the same calls choose the same.
    """

    admission = Admission()

    def __init__(
        self,
        arms: Sequence[Callable[[], Policy]] = ARMS,
        share: float | None = None,
        half_life: float = 200.0,
        margin: float = 0.03,
        sigmas: float = 2.0,
    ) -> None:
        self._makers, self._share = tuple(arms), share
        self._arms = [make() for make in self._makers]
        self.fading, self.margin, self.sigmas = 0.5 ** (1 / half_life), margin, sigmas
        self._least_stay = int(half_life / 4)
        self._cache: PrefixCache | None = None
        self.shadows: list[Shadow] = []
        self.saved = [0.0] * len(self._arms)
        # the squared differences of what two arms saved of one request, fading alike
        self._spread = [[0.0] * len(self._arms) for _ in self._arms]
        self._in_use = 0
        self._n_since = 0
        self.name = "selector"

    @property
    def arm(self) -> str:
        """The one in use."""
        return self._arms[self._in_use].arm

    @property
    def share(self) -> float:
        """Of conversations, and of the capacity, that the shadows have."""
        return self._share or 1.0

    def attached(self, cache: PrefixCache) -> None:
        """Make the shadows. Raises UserError where this selector has a cache already."""
        if self._cache is not None:
            raise UserError("a selector orders one cache", "policy", "Make a Selector for each PrefixCache.")
        self._cache = cache
        if self._share is None:
            n_checkpoints = cache.capacity_bytes / max(1, cache.costs.checkpoint_bytes)
            self._share = min(1.0, MAX_SHADOW_CHECKPOINTS / max(1.0, n_checkpoints))
        self.shadows = [Shadow(cache.shadow(make(), self._share)) for make in self._makers]

    # The order in use.

    def priority(self, node: Node, worth: Worth) -> float:
        """Of the arm in use."""
        return self._arms[self._in_use].priority(node, worth)

    def victim(self, candidates: Candidates, now: float) -> Node:
        """Of the arm in use."""
        return self._arms[self._in_use].victim(candidates, now)

    def evicted(self, node: Node, priority: float) -> None:
        """To the arm in use, whose priority it is."""
        self._arms[self._in_use].evicted(node, priority)

    def used(self, node: Node) -> None:
        """To all arms, so that each is ready."""
        for arm in self._arms:
            arm.used(node)

    def missed(self, ticket: int, now: float) -> None:
        """To all arms."""
        for arm in self._arms:
            arm.missed(ticket, now)

    # What the shadows see.

    def matched(self, match: Match, tokens: Tokens, now: float) -> None:
        """Let each shadow try the request, and choose anew."""
        if not self._is_sampled(match.root, tokens):
            return
        before = [shadow.saved_flops for shadow in self.shadows]
        for shadow in self.shadows:
            shadow.matched(match, tokens, now)
        new = [shadow.saved_flops - old for shadow, old in zip(self.shadows, before, strict=True)]
        self.saved = [self.fading * old + more for old, more in zip(self.saved, new, strict=True)]
        self._spread = [
            [self.fading * old + (a - b) ** 2 for old, b in zip(row, new, strict=True)]
            for row, a in zip(self._spread, new, strict=True)
        ]
        self._choose()

    def inserted(self, match: Match, tokens: Tokens, positions: Iterable[int], now: float) -> None:
        """To the shadows that follow this request."""
        at = tuple(positions)
        for shadow in self.shadows:
            shadow.inserted(match, tokens, at, now)

    def released(self, match: Match) -> None:
        """To the shadows."""
        for shadow in self.shadows:
            shadow.released(match)

    def cleared(self, root: Hashable | None) -> None:
        """To the shadows: they may not count as saved what is gone here."""
        for shadow in self.shadows:
            shadow.cleared(root)

    def reserved(self, n_bytes: int) -> None:
        """To the shadows, in their measure."""
        for shadow in self.shadows:
            shadow.reserved(int(n_bytes * self.share))

    def _is_sampled(self, root: Hashable, tokens: Tokens) -> bool:
        if self.share >= 1:
            return True
        digest = zlib.crc32(tokens[:HASHED_TOKENS].tobytes(), zlib.crc32(repr(root).encode()))
        return digest < self.share * 2**32

    def _choose(self) -> None:
        self._n_since += 1
        best = max(range(len(self.saved)), key=lambda k: (self.saved[k], -k))
        lead = self.saved[best] - self.saved[self._in_use]
        is_ahead = lead > self.margin * self.saved[self._in_use] and lead > self.sigmas * self._spread[best][self._in_use] ** 0.5
        if is_ahead and self._n_since >= self._least_stay and self._cache is not None:
            self._in_use, self._n_since = best, 0
            self._cache.reorder()
