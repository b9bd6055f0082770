"""An engine driven by hand, and what its requests were told."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from tilth.inference.engine.engine import Engine
from tilth.inference.engine.limits import EngineLimits
from tilth.inference.engine.requests import BranchFinished, Event, FinishReason, NewToken, Request, RequestFinished
from tilth.models.decoder import Decoder


@dataclass
class Told:
    """What one request was told, in order."""

    number: int = 0
    events: list[Event] = field(default_factory=list)

    def ids(self, branch: int = 0) -> list[int]:
        return [event.token_id for event in self.events if isinstance(event, NewToken) and event.branch == branch]

    @property
    def likeliest(self) -> list[dict[int, float]]:
        """log p of the likeliest tokens at each step of a request with one branch."""
        return [dict(event.likeliest) for event in self.events if isinstance(event, NewToken)]

    @property
    def reasons(self) -> dict[int, FinishReason]:
        return {event.branch: event.reason for event in self.events if isinstance(event, BranchFinished)}

    @property
    def messages(self) -> list[str]:
        return [event.message for event in self.events if isinstance(event, BranchFinished)]

    @property
    def end(self) -> RequestFinished:
        *_, last = self.events
        assert isinstance(last, RequestFinished)
        return last

    @property
    def has_ended(self) -> bool:
        return bool(self.events) and isinstance(self.events[-1], RequestFinished)


class Driver:
    """Submits to an engine and steps it; every request that was submitted is in `told`."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.told: list[Told] = []

    def submit(self, prompt: list[int], n_new: int = 12, **options: Any) -> Told:
        told = Told()
        told.number = self.engine.submit(Request(prompt_ids=tuple(prompt), max_tokens=n_new, **options), told.events.append)
        self.told.append(told)
        return told

    def finish(self, most_steps: int = 5000) -> None:
        for _ in range(most_steps):
            if not self.engine.step():
                break
        assert all(told.has_ended for told in self.told)
        self.check_empty()

    def check_empty(self) -> None:
        """No running request holds a byte, a row or a slot, and the cache counts what it has."""
        stats = self.engine.stats()
        cache, runs = self.engine._memory.cache, self.engine._memory.pool.runs
        assert cache.recount() == cache.ledger
        assert stats.used_bytes == stats.kv_bytes + stats.checkpoint_bytes <= stats.capacity_bytes
        if runs.n_slots:
            assert runs.n_slots - runs.n_free == cache.ledger.n_tokens  # every slot that is not free is in the tree
        assert (stats.reserved_bytes, stats.n_waiting, stats.n_reading, stats.n_decoding) == (0, 0, 0, 0)


@pytest.fixture
def drive() -> Callable[..., Driver]:
    """drive(model, **limits): an engine with small chunks; what is no limit is an option of the engine."""

    def make(model: Decoder, **options: Any) -> Driver:
        names = {field.name for field in dataclasses.fields(EngineLimits)}
        limits = {"chunk_tokens": 8} | {name: options.pop(name) for name in names & options.keys()}
        return Driver(Engine(model, limits=EngineLimits(**limits), **options))

    return make


@pytest.fixture
def draw_prompts() -> Callable[..., list[list[int]]]:
    """draw(5, 1, 9): random prompts of these lengths for the small model."""

    def draw(*lengths: int) -> list[list[int]]:
        return [torch.randint(0, 43, (length,)).tolist() for length in lengths]

    return draw
