"""An engine for one evaluation: as much room as its batch needs, warm before the clock starts, and its states measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from tilth.evaluate.prompting import Coder
from tilth.evaluate.solving import Solving
from tilth.inference.cache.costs import StateCosts
from tilth.inference.devices import find_device
from tilth.inference.engine.engine import Engine
from tilth.inference.engine.limits import EngineLimits
from tilth.inference.engine.memory import TAIL_SLOTS
from tilth.inference.engine.requests import OnEvent, Request
from tilth.models.decoder import Decoder, store_in
from tilth.models.weights import load_model

ROWS_BESIDE = 4  # a reading, its cut, what it begins from, and one to spare
_STEPS_A_LOOK = 8


class MeasuredEngine:
    """An engine for `solve` that notes the most bytes of states that were in use, as it looks every few steps."""

    def __init__(self, model: Decoder, limits: EngineLimits, uses_cache: bool = False) -> None:
        self.limits, self.most_bytes = limits, 0
        self.weight_bytes = sum(parameter.nbytes for parameter in model.parameters())
        self._engine, self._n_steps = Engine(model, limits=limits, uses_cache=uses_cache), 0

    def submit(self, request: Request, on_event: OnEvent) -> int:
        """As Engine has it."""
        return self._engine.submit(request, on_event)

    def cancel(self, request_id: int, branch: int | None = None, *, is_done: bool = False) -> None:
        """As Engine has it."""
        self._engine.cancel(request_id, branch, is_done=is_done)

    def step(self) -> bool:
        """As Engine has it."""
        has_worked = self._engine.step()
        if self._n_steps % _STEPS_A_LOOK == 0:
            self.most_bytes = max(self.most_bytes, self._engine.stats().used_bytes)
        self._n_steps += 1
        return has_worked

    def warm_up(self, prompt_ids: Sequence[int], how: Solving) -> None:
        """Have compiled what is compiled on first use: a short request with as many samples, which nobody counts."""
        n_new = min(2, how.max_tokens)
        request = Request(prompt_ids=tuple(prompt_ids), max_tokens=n_new, n=how.width, sampling=how.sampling, uses_cache=False)
        self.submit(request, lambda event: None)
        while self.step():
            pass
        self.most_bytes = self._n_steps = 0


def make_engine(model: Decoder, how: Solving, longest_prompt: int, memory_bytes: int | None = None) -> MeasuredEngine:
    """For prompts of at most longest_prompt tokens. memory_bytes: of states; None: what the batch needs at most."""
    itemsize = model.embedding.weight.element_size()
    capacity = memory_bytes or needed_bytes(StateCosts.of(model.config, itemsize), how, longest_prompt)
    limits = EngineLimits(
        capacity_bytes=max(1, capacity),
        max_rows=how.batch,
        max_waiting=how.batch + 2,
        max_tokens=longest_prompt + how.max_tokens,
    )
    return MeasuredEngine(model, limits, how.uses_cache)


def needed_bytes(costs: StateCosts, how: Solving, longest_prompt: int) -> int:
    """The states of `batch` samples at their longest, of the prompts that they share, and of what is read meanwhile."""
    n_requests = -(-how.batch // how.width) + 1
    n_tokens = how.batch * (how.max_tokens + TAIL_SLOTS) + n_requests * longest_prompt
    return costs.kv_bytes * n_tokens + costs.checkpoint_bytes * (how.batch + how.width + n_requests + ROWS_BESIDE)


def open_model(folder: Path, device: str = "cpu", dtype: str | None = None) -> Decoder:
    """The model of a folder on a device, in a dtype (`store_in`; None: as stored). Raises as find_device and load_model do."""
    model = load_model(folder)
    if dtype is not None:
        store_in(model, getattr(torch, dtype))
    return model.to(find_device(device)).eval()


def longest_prompt(coder: Coder, prompts: Sequence[str]) -> int:
    """Tokens of the longest of some prompts, what begins a text included."""
    lengths = (
        len(ids) for start in range(0, len(prompts), 1000) for ids in coder.tokenizer.encode_batch(prompts[start : start + 1000])
    )
    return len(coder.first_ids) + max(lengths)
