"""An engine driven by hand, and what its requests were told."""

from __future__ import annotations

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
        self.told.append(told)
        told.number = self.engine.submit(Request(prompt_ids=tuple(prompt), max_tokens=n_new, **options), told.events.append)
        return told

    def finish(self, most_steps: int = 5000) -> None:
        for _ in range(most_steps):
            if not self.engine.step():
                break
        assert all(told.has_ended for told in self.told)
        self.check_empty()

    def check_empty(self) -> None:
        """No running request holds a byte, a row or a slot."""
        stats = self.engine.stats()
        assert (stats.reserved_bytes, stats.n_waiting, stats.n_reading, stats.n_decoding) == (0, 0, 0, 0)


@pytest.fixture
def drive() -> Callable[..., Driver]:
    """drive(model, **limits): an engine with small chunks."""

    def make(model: Decoder, **limits: Any) -> Driver:
        return Driver(Engine(model, limits=EngineLimits(**({"chunk_tokens": 8} | limits))))

    return make


@pytest.fixture
def draw_prompts() -> Callable[..., list[list[int]]]:
    """draw(5, 1, 9): random prompts of these lengths for the small model."""

    def draw(*lengths: int) -> list[list[int]]:
        return [torch.randint(0, 43, (length,)).tolist() for length in lengths]

    return draw
