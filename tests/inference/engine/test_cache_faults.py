"""A cache or a policy that raises costs at most the request at hand: nothing is freed twice, nothing is lost, others go on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from tilth.inference.cache.policies.lru import LRU
from tilth.inference.cache.prefix_cache import PrefixCache
from tilth.inference.engine.requests import FinishReason
from tilth.inference.generate import generate
from tilth.models.decoder import Decoder

HOOKS = ("priority", "victim", "used", "evicted", "matched", "inserted", "released", "reserved", "cleared")


def serve(driver: Any, prompts: list[list[int]], n_new: int = 9) -> list[Any]:
    told = [driver.submit(prompt, n_new, n=2) for prompt in prompts]
    driver.finish()
    return told


@pytest.mark.parametrize("hook", HOOKS)
def test_a_policy_that_raises_is_replaced(
    hook: str, make_model: Callable[..., Decoder], drive: Any, draw_prompts: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, (shared, *tails) = make_model("MA", tie_embeddings=False), draw_prompts(20, 3, 4, 5, 6, 7)
    n_bytes = int(1.5 * drive(model).engine._memory.most_bytes(30, 9, 2))
    driver, n_calls = drive(model, policy=LRU(), capacity_bytes=n_bytes), 0

    def failing(*arguments: Any) -> Any:
        nonlocal n_calls
        n_calls += 1
        raise RuntimeError("a bad policy")

    monkeypatch.setattr(driver.engine._memory.cache.policy.policy, hook, failing)
    prompts = [[*shared, *tail] for tail in tails]
    told = serve(driver, prompts) + serve(driver, prompts)
    driver.engine.clear_cache()
    told += serve(driver, prompts)
    for each, prompt in zip(told, 3 * prompts, strict=True):
        assert [each.ids(0), each.ids(1)] == 2 * [generate(model, prompt, 9)]
    stats = driver.engine.stats()
    assert (n_calls, stats.n_faults) == (1, 1)
    assert stats.cache.arm == "superseded+lru (lru failed)"
    assert sum(stats.n_cached_tokens.values()) > 0


@pytest.mark.parametrize("place", ["_append", "_settle", "_keep_checkpoint", "held"])
def test_an_insert_that_raises_loses_no_slot(
    place: str, make_model: Callable[..., Decoder], drive: Any, draw_prompts: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, (shared, *tails) = make_model("MA", tie_embeddings=False), draw_prompts(20, 3, 4, 5, 6)
    driver, inserting, whole = drive(model, policy=LRU()), PrefixCache.insert, getattr(PrefixCache, place)
    state = {"is_inserting": False, "n_inserts": 0, "n_raised": 0}

    def insert(self: Any, *arguments: Any) -> Any:
        state["n_inserts"] += 1
        state["is_inserting"] = True
        try:
            return inserting(self, *arguments)
        finally:
            state["is_inserting"] = False

    def failing(self: Any, *arguments: Any) -> Any:
        found = whole(self, *arguments)
        if state["is_inserting"] and state["n_inserts"] % 2 == 0:
            state["n_raised"] += 1
            raise RuntimeError("a bad cache")
        return found

    monkeypatch.setattr(PrefixCache, "insert", insert)
    monkeypatch.setattr(PrefixCache, place, failing)
    prompts = [[*shared, *tail] for tail in tails]
    told = [each for _ in range(3) for each in serve(driver, prompts)]
    assert state["n_raised"] > 3
    assert driver.engine.stats().n_faults == state["n_raised"]
    wanted = {tuple(prompt): generate(model, prompt, 9) for prompt in prompts}
    for each, prompt in zip(told, 3 * prompts, strict=True):
        for branch, reason in each.reasons.items():
            assert reason in (FinishReason.LENGTH, FinishReason.ERROR)
            assert each.ids(branch) == (wanted[tuple(prompt)] if reason == FinishReason.LENGTH else [])
    reasons = [reason for each in told for reason in each.reasons.values()]
    assert FinishReason.LENGTH in reasons
    driver.engine.clear_cache()
    assert driver.engine.stats().used_bytes == 0
    driver.check_empty()


@pytest.mark.parametrize("in_8_bits", [False, True])
def test_states_that_are_no_numbers_are_not_kept(
    in_8_bits: bool, make_model: Callable[..., Decoder], drive: Any, draw_prompts: Any
) -> None:
    model, (prompt,) = make_model("MA", tie_embeddings=False, scale=1.0), draw_prompts(20)
    driver = drive(model, checkpoints_in_8_bits=in_8_bits, capacity_bytes=1 << 20)
    memory = driver.engine._memory
    for spoils in ("states", "keys"):
        told = driver.submit(prompt, 4)
        driver.engine.step()
        (reading,) = driver.engine._queue
        assert 0 < reading.n_read < len(prompt)
        if spoils == "states":
            reading.states[1] = torch.full_like(reading.states[1], float("nan"))
        else:
            memory.pool.layers[1].keys[reading.prefix.slots[: reading.n_read]] = float("nan")
        memory.drop_reading(reading, keeps=True)
        assert memory.cache.used_bytes == 0
        driver.finish()
        assert told.ids() == generate(model, prompt, 4)
        driver.engine.clear_cache()
    assert driver.engine.stats().n_faults == 0


def test_a_branch_whose_states_are_no_numbers_gets_its_answer(
    make_model: Callable[..., Decoder], drive: Any, draw_prompts: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, (prompt,) = make_model("MA", tie_embeddings=False, scale=1.0), draw_prompts(7)
    driver = drive(model, checkpoints_in_8_bits=True)
    states_of = type(driver.engine._batch).states_of

    def spoiled(self: Any, branch: Any) -> list[torch.Tensor]:
        return [torch.full_like(tensor, float("inf")) for tensor in states_of(self, branch)]

    monkeypatch.setattr(type(driver.engine._batch), "states_of", spoiled)
    told = driver.submit(prompt, 4)
    driver.finish()
    assert told.reasons == {0: FinishReason.LENGTH}
    assert (driver.engine.stats().checkpoint_bytes, driver.engine.stats().n_faults) == (0, 0)


def test_a_model_of_no_numbers_is_served_without_a_cache(make_model: Callable[..., Decoder], drive: Any) -> None:
    model = make_model("MA", tie_embeddings=False)
    with torch.no_grad():
        model.embedding.weight[:] = float("nan")
    driver = drive(model, checkpoints_in_8_bits=True)
    assert "not finite" in driver.engine.stats().off_reason
    told = driver.submit([1, 2, 3], 4)
    driver.finish()
    assert told.reasons == {0: FinishReason.ERROR}
