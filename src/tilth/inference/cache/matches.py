"""Match: what a request holds of the cache from its match until its release, and why it found no more."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any

from tilth.inference.cache.tree import Node, Slots
from tilth.inference.engine.requests import MissReason


@dataclass(eq=False)
class Match:
    """n_tokens of the input are reused: their keys lie in slots (n_tokens,) int32, their state is checkpoint (None if 0).

    n_known: how far the tree's keys go. cut: where the prefill is to be cut (n_tokens < cut <= len(tokens) - 1) and its states
    handed to insert, None where nowhere. slots are None in a cache without them. checkpoint may be read until the first insert,
    which knows that the prefill has begun from it; n_held: the tokens that the tree keeps for this request, n_tokens at first.
    """

    root: Hashable
    n_tokens: int
    n_known: int
    slots: Slots | None
    checkpoint: Any
    cut: int | None
    miss_reason: MissReason
    n_held: int = field(init=False)
    frequency: int = field(default=1, repr=False)  # of the conversation that it continues
    lost: Node | None = field(default=None, repr=False)  # the deeper state that was evicted, as it is remembered
    node: Node | None = field(default=None, repr=False)  # the path down to here is locked
    reads_checkpoint: bool = field(default=False, repr=False)
    is_open: bool = field(default=True, repr=False)

    def __post_init__(self) -> None:
        self.n_held = self.n_tokens


def miss_reason(n_tokens: int, n_known: int, n_asked: int, was_evicted: bool) -> MissReason:
    """Why n_tokens of n_asked came with a state, where keys are known for n_known. NONE: nothing that ever was here was lost."""
    if n_tokens >= n_asked - 1:
        return MissReason.NONE
    if was_evicted:
        return MissReason.EVICTED
    if n_known > n_tokens:
        return MissReason.NO_STATE
    return MissReason.NONE if n_known else MissReason.NO_PREFIX
