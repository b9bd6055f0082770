"""One branch of a request can be given up: the others go on as if it had never been, and its state is freed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tilth.inference.engine.requests import FinishReason
from tilth.inference.sampling import Sampling


@pytest.mark.parametrize("pattern", ["MA", "MM"])
def test_a_branch_that_has_said_enough_is_kept(
    make_model: Callable[..., Any], drive: Callable[..., Any], draw_prompts: Callable[..., Any], pattern: str
) -> None:
    """What follows it is not read again; what follows one that was given up is."""
    found, model, (prompt,) = [], make_model(pattern), draw_prompts(20)
    for is_done in (False, True):
        driver = drive(model)
        told = driver.submit(prompt, 30)
        for _ in range(6):
            driver.engine.step()
        driver.engine.cancel(told.number, 0, is_done=is_done)
        driver.finish()
        assert told.reasons == {0: FinishReason.STOP if is_done else FinishReason.CANCELLED}
        turn = driver.submit([*prompt, *told.ids(), *prompt], 4)
        driver.finish()
        found.append((turn.end.n_cached_tokens, turn.ids()))
    (n_lost, without), (n_kept, with_) = found
    assert n_lost == 0
    assert n_kept == 20 + len(told.ids()) - 1  # the last token was said and not read
    assert with_ == without


@pytest.mark.parametrize("n_steps", [0, 1, 4])
def test_the_others_say_what_they_would_have_said(
    make_model: Callable[..., Any], drive: Callable[..., Any], draw_prompts: Callable[..., Any], n_steps: int
) -> None:
    model, (prompt,) = make_model("MA"), draw_prompts(20)
    options = {"n": 3, "seed": 5, "sampling": Sampling(temperature=1.0)}
    driver = drive(model)
    told = driver.submit(prompt, 10, **options)
    for _ in range(n_steps):
        driver.engine.step()
    driver.engine.cancel(told.number, 1)
    driver.engine.cancel(told.number, 1)
    driver.finish()
    assert told.reasons == {0: FinishReason.LENGTH, 1: FinishReason.CANCELLED, 2: FinishReason.LENGTH}
    other = drive(model)
    whole = other.submit(prompt, 10, **options)
    other.finish()
    assert [told.ids(branch) for branch in (0, 2)] == [whole.ids(branch) for branch in (0, 2)]
    assert len(told.ids(1)) < 10
    assert told.end.n_new_tokens == 20 + len(told.ids(1))
    assert 0 <= told.end.queue_seconds < 600
