"""Shadow: a cache of nothing that follows another's requests under an order of its own, to see what that would have saved."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import TYPE_CHECKING

from tilth.inference.cache.matches import Match
from tilth.inference.cache.tree import Tokens

if TYPE_CHECKING:
    from tilth.inference.cache.prefix_cache import PrefixCache


class Shadow:
    """Follows matches, inserts and releases; where its own branch points differ from the other's, it keeps its own."""

    def __init__(self, cache: PrefixCache) -> None:
        self.cache = cache
        self._followed: dict[int, Match] = {}
        self._uncut: set[int] = set()  # of those, the ones whose own branch point is to come

    @property
    def saved_flops(self) -> float:
        """Of all prefills so far."""
        return self.cache.stats.saved_flops

    def matched(self, match: Match, tokens: Tokens, now: float) -> None:
        """The other has matched `tokens`."""
        own = self._followed[id(match)] = self.cache.match(match.root, tokens, now)
        if own.cut is not None:
            self._uncut.add(id(match))

    def inserted(self, match: Match, tokens: Tokens, positions: Iterable[int], now: float) -> None:
        """The other was given states at `positions`."""
        own = self._followed.get(id(match))
        if own is None or len(tokens) < own.n_tokens:  # it reads what was found here, and would have begun behind it
            return
        kept = {at for at in positions if at != match.cut}
        if id(match) in self._uncut and own.cut is not None and own.cut <= len(tokens):
            self._uncut.remove(id(match))
            kept.add(own.cut)
        self.cache.insert(own, tokens, None, dict.fromkeys(sorted(kept)), now)

    def released(self, match: Match) -> None:
        """The other's request has ended."""
        self._uncut.discard(id(match))
        own = self._followed.pop(id(match), None)
        if own is not None:
            self.cache.release(own)

    def cleared(self, root: Hashable | None) -> None:
        """The other has dropped one root, or all."""
        self.cache.clear(root)

    def reserved(self, n_bytes: int) -> None:
        """The other has so many bytes reserved now; here, as many of them as can be had."""
        missing = n_bytes - self.cache.reserved_bytes
        if missing > 0:
            self.cache.reserve(min(missing, self.cache.ledger.room_bytes))
        else:
            self.cache.give_back(-missing)
