"""What a branch draws with is what it would draw alone, and costs nothing before it is drawn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from tilth.inference.engine.chances import PIECE, Chances
from tilth.inference.generate import generate
from tilth.inference.sampling import Sampling
from tilth.models.decoder import Decoder


@pytest.mark.parametrize("seed", [0, 7, -3, 2**40])
def test_they_are_those_of_one_draw(seed: int) -> None:
    n = 3 * PIECE + 5
    wanted = torch.rand(n, generator=torch.Generator().manual_seed(seed)).tolist()
    chances = Chances(seed)
    assert [chances[place] for place in range(n)] == wanted
    assert chances[n - 1] == wanted[-1]  # a pass that failed asks again
    with pytest.raises(IndexError):
        chances[PIECE]


def test_a_request_that_waits_has_drawn_none(
    make_model: Callable[..., Decoder], drive: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = drive(make_model("M"))
    with monkeypatch.context() as patched:
        patched.setattr(torch, "rand", lambda *shape, **options: pytest.fail("a chance was drawn"))
        told = driver.submit([1], 30_000, n=64, sampling=Sampling(temperature=1.0))
    driver.engine.step()
    driver.engine.step()
    assert all(len(told.ids(branch)) >= 1 for branch in range(64))
    driver.engine.cancel(told.number)
    driver.finish()


def test_greedy_draws_none(make_model: Callable[..., Decoder], drive: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model("M")
    wanted = generate(model, [1, 2], 5)
    driver = drive(model)
    monkeypatch.setattr(Chances, "__getitem__", lambda self, place: pytest.fail("a chance was drawn"))
    told = driver.submit([1, 2], 5)
    driver.finish()
    assert told.ids() == wanted
