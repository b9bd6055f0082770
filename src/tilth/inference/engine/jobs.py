"""What the engine keeps of a request: its branches, the text that is read for them, and the slots that they share."""

from __future__ import annotations

import time
from collections.abc import Hashable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tilth.inference.cache.matches import Match
from tilth.inference.engine.chances import Chances
from tilth.inference.engine.recurrent import Checkpoint
from tilth.inference.engine.requests import MissReason, OnEvent, Request
from tilth.inference.engine.slots import Slots

Tokens = NDArray[np.int32]


@dataclass(eq=False)
class Prefix:
    """The slots of a text that has been read, which the branches that go on from its end share by reference.

    The cache owns the first n_kept of them, the request the others, whose bytes are reserved. match is what the cache knows
    this reading by, None without one. It is closed with its last user.
    """

    slots: Slots
    n_kept: int
    match: Match | None
    n_users: int = 1


@dataclass(eq=False)
class Branch:
    """One continuation. tail: its own slots, behind those of the prefix; n_read: the tokens that its states have seen.

    is_suspect: it was in a pass that failed, and passes alone until one has succeeded.
    """

    job: Job
    number: int
    chances: Chances
    ids: list[int] = field(default_factory=list)
    prefix: Prefix | None = None
    tail: Slots = field(default_factory=lambda: np.empty(0, dtype=np.int32))
    n_read: int = 0
    row: int = -1
    is_suspect: bool = False
    has_ended: bool = False

    @property
    def age(self) -> tuple[int, int]:
        """Rises from the oldest branch to the youngest."""
        return self.job.id, self.number

    def tokens(self) -> Tokens:
        """The prompt and what was said."""
        return np.array((*self.job.request.prompt_ids, *self.ids), dtype=np.int32)

    def slots(self) -> Slots:
        """Those of the tokens read, and the free ones behind them."""
        assert self.prefix is not None
        return np.concatenate([self.prefix.slots, self.tail])


@dataclass(eq=False)
class Reading:
    """A text to be read for branches that go on from its end: a prompt for all of a request's, or what a preempted one had.

    states and prefix are None until it has begun.
    """

    branches: list[Branch]
    tokens: Tokens
    n_read: int = 0
    states: Checkpoint | None = None
    prefix: Prefix | None = None
    cut: int | None = None

    @property
    def job(self) -> Job:
        """The request that it is for."""
        return self.branches[0].job

    @property
    def age(self) -> tuple[int, int]:
        """That of its oldest branch."""
        return self.branches[0].age


@dataclass(eq=False)
class Job:
    """A request, its branches and whom to tell. tenant_slot is the bank's, -1 for the base."""

    id: int
    request: Request
    on_event: OnEvent
    root: Hashable = None
    tenant_slot: int = -1
    branches: list[Branch] = field(default_factory=list)
    has_begun: bool = False
    n_cached_tokens: int = 0
    miss_reason: MissReason = MissReason.OFF
    came: float = field(default_factory=time.monotonic)
    queue_seconds: float = 0.0

    def __post_init__(self) -> None:
        for number in range(self.request.n):
            self.branches.append(Branch(self, number, Chances(self.request.seed + number)))

    @property
    def has_ended(self) -> bool:
        """Whether all of its branches have."""
        return all(branch.has_ended for branch in self.branches)


def message_of(error: Exception) -> str:
    """What is told of an error that ended a branch."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
