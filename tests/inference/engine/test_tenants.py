"""Tenants beside each other: each gets its own fine-tune's tokens, its turn, and nothing of another's cache."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch

from tilth.errors import DeltaError, UserError
from tilth.inference.cache.policies.lru import LRU
from tilth.inference.engine.requests import MissReason, NewToken, UnknownTenantError
from tilth.inference.generate import generate
from tilth.inference.tenants.bank import TenantBank
from tilth.inference.tenants.weights import LowRankTerm, TenantWeights
from tilth.models.decoder import Decoder


def tune(model: Decoder, seed: int) -> tuple[TenantWeights, Decoder]:
    """A fine-tune as a difference of every matrix of the blocks, and as a model of its own."""
    generator = torch.Generator().manual_seed(seed)
    tuned, products = copy.deepcopy(model), {}
    with torch.no_grad():
        for name, weight in tuned.named_parameters():
            if name.endswith("proj.weight"):
                up = 0.3 * torch.randn(weight.shape[0], 2, generator=generator)
                down = torch.randn(2, weight.shape[1], generator=generator) / weight.shape[1] ** 0.5
                weight += up @ down
                products[name] = [LowRankTerm(up, down)]
    return TenantWeights(f"tune {seed}", products=products), tuned


@pytest.mark.parametrize("layers", ["MA", "S"])
def test_each_gets_its_own_and_shares_nothing(
    layers: str, make_model: Callable[..., Decoder], drive: Any, draw_prompts: Any
) -> None:
    model = make_model(layers, tie_embeddings=False)
    driver = drive(model, tenants=TenantBank(model, "base"), base_digest="base", policy=LRU())
    models: dict[str | None, Decoder] = {None: copy.deepcopy(model)}
    for seed, name in enumerate(("a", "b")):
        weights, models[name] = tune(model, seed)
        driver.engine.load_tenant(name, weights)
    (prompt,) = draw_prompts(21)
    for turn in range(3):  # the same prompt of all three at once: what one reads must not serve another
        told = {name: driver.submit(prompt, 10, tenant=name) for name in models}
        driver.finish()
        for name, each in told.items():
            assert each.ids() == generate(models[name], prompt, 10)
            assert each.end.miss_reason == (MissReason.NO_PREFIX, MissReason.NO_STATE, MissReason.NONE)[turn]
            assert each.end.n_cached_tokens == (20 if turn == 2 else 0)
    assert len({tuple(each.ids()) for each in told.values()}) == 3
    assert driver.engine.stats().n_cached_tokens == {None: 20, "a": 20, "b": 20}


def test_two_of_the_same_weights_share_nothing(make_model: Callable[..., Decoder], drive: Any, draw_prompts: Any) -> None:
    model, (prompt,) = make_model("MA"), draw_prompts(15)
    driver = drive(model, tenants=TenantBank(model, "base"), base_digest="base", policy=LRU())
    weights, _ = tune(model, 0)
    for name in ("a", "b"):
        driver.engine.load_tenant(name, weights)
    cached = []
    for name in ("a", "a", "a", "b"):
        told = driver.submit(prompt, 4, tenant=name)
        driver.finish()
        cached.append(told.end.n_cached_tokens)
    assert cached == [0, 0, 14, 0]


def test_a_tenant_that_leaves_and_comes_back_as_another(
    make_model: Callable[..., Decoder], drive: Any, draw_prompts: Any
) -> None:
    model, (prompt,) = make_model("MA", tie_embeddings=False), draw_prompts(15)
    driver = drive(model, tenants=TenantBank(model, "base"), policy=LRU())
    answers = []
    for seed in range(2):
        weights, tuned = tune(model, seed)
        driver.engine.load_tenant("a", weights)
        for _ in range(2):
            told = driver.submit(prompt, 8, tenant="a")
            driver.finish()
            assert told.ids() == generate(tuned, prompt, 8)
        answers.append(told.ids())
        with pytest.raises(DeltaError, match="loaded already"):
            driver.engine.load_tenant("a", weights)
        driver.engine.unload_tenant("a")
        with pytest.raises(UnknownTenantError):
            driver.submit(prompt, 8, tenant="a")
    assert answers[0] != answers[1]


def test_unloading_waits_for_those_who_use_it(make_model: Callable[..., Decoder], drive: Any, draw_prompts: Any) -> None:
    model, (prompt,) = make_model("MA", tie_embeddings=False), draw_prompts(5)
    driver = drive(model, tenants=TenantBank(model, "base"))
    weights, tuned = tune(model, 0)
    driver.engine.load_tenant("a", weights)
    told = driver.submit(prompt, 200, tenant="a")
    driver.engine.step()
    with pytest.raises(UserError, match="used by 1 requests"):
        driver.engine.unload_tenant("a", timeout_seconds=0)
    second = driver.submit(prompt, 3, tenant="a")  # it stayed
    stop = threading.Event()
    thread = threading.Thread(target=driver.engine.run, args=(stop,))
    thread.start()
    driver.engine.unload_tenant("a", timeout_seconds=60)
    with pytest.raises(UnknownTenantError):
        driver.submit(prompt, 3, tenant="a")
    stop.set()
    thread.join(60)
    assert told.ids() == generate(tuned, prompt, 200)
    assert second.ids() == told.ids()[:3]
    with pytest.raises(UnknownTenantError):
        driver.engine.unload_tenant("nobody")


def test_an_engine_of_the_base_alone_says_so(make_model: Callable[..., Decoder], drive: Any) -> None:
    with pytest.raises(UserError, match="the base alone"):
        drive(make_model("M")).engine.load_tenant("a", TenantWeights("a"))


def test_who_asks_little_does_not_wait_for_who_asks_much(
    make_model: Callable[..., Decoder], drive: Any, draw_prompts: Any
) -> None:
    model = make_model("MA", tie_embeddings=False)
    driver = drive(model, tenants=TenantBank(model, "base"), max_rows=2, uses_cache=False)
    for seed, name in enumerate(("greedy", "modest")):
        driver.engine.load_tenant(name, tune(model, seed)[0])
    order: list[tuple[str, int]] = []
    much = [driver.submit(prompt, 10, tenant="greedy") for prompt in draw_prompts(*[16] * 12)]
    driver.engine.step()
    little = [driver.submit(prompt, 10, tenant="modest") for prompt in draw_prompts(16, 16, 16)]
    while driver.engine.step():
        for name, asked in (("greedy", much), ("modest", little)):
            order += [(name, i) for i, told in enumerate(asked) if told.has_ended and (name, i) not in order]
    ends = [order.index(("modest", number)) for number in range(3)]
    assert ends[-1] <= 8  # in turns: about as many of the one as of the other, not after all twelve
    assert [number for name, number in order if name == "greedy"] == list(range(12))
    driver.check_empty()


def test_a_tenant_that_fails_leaves_the_others(
    make_model: Callable[..., Decoder], drive: Any, draw_prompts: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, (prompt,) = make_model("MA", tie_embeddings=False), draw_prompts(9)
    bank = TenantBank(model, "base")
    driver = drive(model, tenants=bank)
    driver.engine.load_tenant("a", tune(model, 0)[0])
    rows = bank.rows

    def failing(tenants_B: torch.Tensor) -> Any:
        if len(tenants_B) == 1 and tenants_B[0] == 0:
            raise RuntimeError("no such delta")
        return rows(tenants_B)

    wanted = generate(model, prompt, 6)
    monkeypatch.setattr(bank, "rows", failing)
    bad, good = driver.submit(prompt, 6, tenant="a"), driver.submit(prompt, 6)
    driver.finish()
    assert bad.messages == ["RuntimeError: no such delta"]
    assert good.ids() == wanted
    assert len([event for event in good.events if isinstance(event, NewToken)]) == 6
