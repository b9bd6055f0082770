"""Any order of submitting, cancelling, stepping and clearing, in little memory: every byte is counted, every answer is right."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from tilth.inference.engine import memory, paging
from tilth.inference.engine.requests import FinishReason
from tilth.inference.generate import generate
from tilth.inference.sampling import Sampling
from tilth.models.decoder import Decoder

LENGTHS = (2, 5, 9, 14, 20)
SHARED, N_NEW = 8, 24
MARGIN = 1e-5


class Interleavings(RuleBasedStateMachine):
    """Requests whose prompts share beginnings, against what each gets alone."""

    model: Decoder
    make_driver: Callable[..., Any]
    alone: dict[tuple[int, int], list[int]]

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[Any, int, int, int, bool]] = []

    @initialize(rooms=st.floats(1.0, 1.5), max_rows=st.integers(3, 6), chunk=st.sampled_from([4, 16]))
    def begin(self, rooms: float, max_rows: int, chunk: int) -> None:
        most = self.make_driver(self.model).engine._memory.most_bytes(max(LENGTHS), N_NEW, 2)
        self.driver = self.make_driver(self.model, capacity_bytes=int(rooms * most), max_rows=max_rows, chunk_tokens=chunk)

    def prompt(self, number: int) -> list[int]:
        generator = torch.Generator().manual_seed(number % 2)
        shared = torch.randint(0, 43, (SHARED,), generator=generator).tolist()
        own = torch.randint(0, 43, (max(LENGTHS),), generator=torch.Generator().manual_seed(number)).tolist()
        return (shared + own)[: LENGTHS[number % len(LENGTHS)]]

    @rule(number=st.integers(0, 9), n=st.integers(1, 2), seed=st.integers(0, 2), uses_cache=st.booleans())
    def submit(self, number: int, n: int, seed: int, uses_cache: bool) -> None:
        how = Sampling(temperature=1.0)
        told = self.driver.submit(self.prompt(number), N_NEW, n=n, seed=seed, sampling=how, uses_cache=uses_cache)
        self.asked.append((told, number, n, seed, False))

    @rule(n_steps=st.integers(1, 6))
    def step(self, n_steps: int) -> None:
        for _ in range(n_steps):
            self.driver.engine.step()

    @rule(which=st.integers(0, 5))
    def cancel(self, which: int) -> None:
        if which < len(self.asked):
            told, *rest = self.asked[-1 - which]
            if not told.has_ended:
                self.driver.engine.cancel(told.number)
                self.asked[-1 - which] = (told, rest[0], rest[1], rest[2], True)

    @rule()
    def clear(self) -> None:
        self.driver.engine.clear_cache()

    @rule()
    def fault(self) -> None:
        """One pass over the batch fails."""
        batch = self.driver.engine._batch
        step = type(batch).step

        def failing(self: Any) -> Any:
            type(batch).step = step
            step(self)
            raise RuntimeError("injected")

        type(batch).step = failing
        try:
            self.driver.engine.step()
        finally:
            type(batch).step = step

    @invariant()
    def every_byte_is_counted(self) -> None:
        engine = self.driver.engine
        held, cache = engine._memory, engine._memory.cache
        assert cache.used_bytes <= cache.capacity_bytes
        assert cache.recount() == cache.ledger
        begun = [reading for reading in engine._queue if reading.states is not None]
        branches = engine._batch.branches
        assert [branch.row for branch in branches] == list(range(len(branches)))
        prefixes = {id(each.prefix): each.prefix for each in [*begun, *branches]}.values()
        n_own = sum(len(prefix.slots) - prefix.n_kept for prefix in prefixes) + sum(len(branch.tail) for branch in branches)
        n_rows = len(branches) + sum(len(each.branches) + 1 + (each.cut is not None) for each in begun)
        assert cache.reserved_bytes == n_own * held.kv_bytes + n_rows * held.row_bytes
        runs = held.pool.runs
        if held.kv_bytes:
            assert runs.n_slots - runs.n_free == n_own + cache.ledger.n_tokens
        else:
            assert runs.n_slots == 0

    def check(self, ids: list[int], number: int, seed: int) -> None:
        """The tokens are those of the prompt alone, up to one whose chance lies between it and its neighbour."""
        if (number, seed) not in self.alone:
            self.alone[number, seed] = generate(self.model, self.prompt(number), N_NEW, temperature=1.0, seed=seed)
        wanted = self.alone[number, seed]
        if (place := next((i for i in range(len(ids)) if ids[i] != wanted[i]), None)) is None:
            return
        chance = float(torch.rand(N_NEW, generator=torch.Generator().manual_seed(seed))[place])
        logits_V = self.model(torch.tensor([self.prompt(number) + wanted[:place]]))[0, -1].detach()
        assert float((logits_V.double().softmax(-1).cumsum(-1) - chance).abs().min()) < MARGIN

    def teardown(self) -> None:
        if not hasattr(self, "driver"):
            return
        self.driver.finish()
        for told, number, n, seed, is_cancelled in self.asked:
            for branch in range(n):
                self.check(told.ids(branch), number, seed + branch)
                if not is_cancelled:
                    assert told.reasons[branch] == FinishReason.LENGTH
                    assert len(told.ids(branch)) == N_NEW
        self.driver.engine.clear_cache()
        assert self.driver.engine.stats().used_bytes == 0


@pytest.mark.slow
@pytest.mark.parametrize("layers", ["MA", "S", "A"])
def test_any_order(layers: str, make_model: Callable[..., Decoder], drive: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "TAIL_SLOTS", 3)
    monkeypatch.setattr(paging, "FEWEST_SLOTS", 8)  # the pool grows and shrinks
    machine = type("Machine", (Interleavings,), {"model": make_model(layers), "make_driver": staticmethod(drive), "alone": {}})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=10, stateful_step_count=20, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
        ),
    )


def test_what_has_begun_goes_on_before_what_cannot_begin(
    make_model: Callable[..., Decoder], drive: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two passes fail: what was set back comes first, and finds no room beside the reading behind it."""
    monkeypatch.setattr(memory, "TAIL_SLOTS", 3)
    monkeypatch.setattr(paging, "FEWEST_SLOTS", 8)  # the pool grows and shrinks
    machine = type("Machine", (Interleavings,), {"model": make_model("S"), "make_driver": staticmethod(drive), "alone": {}})()
    machine.begin(rooms=1.0, max_rows=4, chunk=4)
    machine.submit(n=2, number=0, seed=0, uses_cache=True)
    machine.submit(n=2, number=1, seed=0, uses_cache=False)
    machine.fault()
    machine.fault()
    machine.teardown()
