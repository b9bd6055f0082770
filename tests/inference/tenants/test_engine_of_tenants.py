"""The engine over a bank: requests of many tenants decode together, and each gets its own fine-tune's tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from tilth.inference.engine.engine import Engine
from tilth.inference.engine.requests import Event, NewToken, Request, RequestFinished, UnknownTenantError
from tilth.inference.generate import generate
from tilth.inference.tenants.bank import TenantBank

Make = Callable[..., Any]
KINDS = ("rank1", "lora", "mixed", "none")


def ask(engine: Engine, tenant: str | None, prompt: list[int], n_new: int) -> list[Event]:
    told: list[Event] = []
    engine.submit(Request(prompt_ids=tuple(prompt), max_tokens=n_new, tenant=tenant), told.append)
    return told


def run(engine: Engine) -> None:
    while engine.step():
        pass


def tokens(told: list[Event]) -> list[int]:
    assert isinstance(told[-1], RequestFinished)
    return [event.token_id for event in told if isinstance(event, NewToken)]


def cached(told: list[Event]) -> int:
    assert isinstance(told[-1], RequestFinished)
    return told[-1].n_cached_tokens


@pytest.mark.parametrize("layers", ["MA", "SD"])
def test_each_request_gets_the_tokens_of_its_own_fine_tune(make_model: Make, make_tenant: Make, layers: str) -> None:
    model = make_model(layers)
    bank = TenantBank(model, "base")
    tenants = {kind: make_tenant(model, kind) for kind in KINDS}
    engine = Engine(model, tenants=bank, base_digest="base")
    for name, (weights, _) in tenants.items():
        engine.load_tenant(name, weights)
    models = {name: own for name, (_, own) in tenants.items()} | {None: model}
    prompt = torch.randint(0, 43, (9,)).tolist()
    wanted = {name: generate(own, prompt, 8 + i) for i, (name, own) in enumerate(models.items())}
    assert len({tuple(ids[:8]) for ids in wanted.values()}) > 2

    first = {name: ask(engine, name, prompt, len(ids)) for name, ids in wanted.items()}
    run(engine)
    again = {name: ask(engine, name, prompt + wanted[name], 4) for name in models}
    run(engine)
    for name, own in models.items():
        assert tokens(first[name]) == wanted[name]
        assert cached(first[name]) == 0  # what others left of the same prompt is not its own
        assert tokens(again[name]) == generate(own, prompt + wanted[name], 4)
        assert cached(again[name]) > 0

    engine.unload_tenant("mixed")
    with pytest.raises(UnknownTenantError):
        ask(engine, "mixed", prompt, 1)
    last = ask(engine, "lora", prompt, 8)
    run(engine)
    assert tokens(last) == wanted["lora"][:8]
