"""Requests that come and go beside each other get what generate_batch, which keeps nothing between calls, gives them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from tilth.errors import RecipeError, UserError
from tilth.inference.engine.engine import Engine
from tilth.inference.engine.requests import FinishReason, NewToken, TooLongError, UnknownTenantError
from tilth.inference.generate import generate, generate_batch
from tilth.inference.sampling import Sampling
from tilth.inference.stopping import Stopping
from tilth.models.decoder import Decoder

FAMILIES: list[dict[str, Any]] = [{"layers": layers} for layers in ("M", "A", "MMA", "SA", "DA")] + [
    {"layers": "AM", "rope_theta": None},
    {"layers": "AMA", "residual": "ladder"},
]
LENGTHS = (5, 1, 9, 5, 17, 2, 40)
DRAWN = Sampling(temperature=1.2, top_k=30, top_p=0.95)


@pytest.mark.parametrize("how", [Sampling(), DRAWN], ids=["greedy", "drawn"])
@pytest.mark.parametrize("changes", FAMILIES)
def test_requests_get_what_generate_batch_gives(
    changes: dict[str, Any], how: Sampling, make_model: Callable[..., Decoder], drive: Any, draw_prompts: Any
) -> None:
    model, prompts = make_model(**changes, tie_embeddings=False), draw_prompts(*LENGTHS)
    wanted = generate_batch(model, prompts, 20, how, seeds=range(5, 12))
    driver = drive(model)
    told = []
    for number, prompt in enumerate(prompts):
        told.append(driver.submit(prompt, 20, sampling=how, seed=5 + number))
        driver.engine.step()  # each begins while the others are somewhere else
    driver.finish()
    assert [each.ids() for each in told] == wanted
    assert {reason for each in told for reason in each.reasons.values()} == {FinishReason.LENGTH}
    assert [each.end.n_prompt_tokens for each in told] == list(LENGTHS)


@pytest.mark.parametrize("changes", FAMILIES)
def test_samples_of_one_prompt_are_those_of_its_seeds(
    changes: dict[str, Any], make_model: Callable[..., Decoder], drive: Any, draw_prompts: Any
) -> None:
    model, (prompt, other) = make_model(**changes, tie_embeddings=False), draw_prompts(19, 4)
    driver = drive(model)
    told = driver.submit(prompt, 15, sampling=DRAWN, seed=3, n=5)
    driver.submit(other, 9)
    driver.finish()
    assert [told.ids(branch) for branch in range(5)] == generate_batch(model, [prompt] * 5, 15, DRAWN, seeds=range(3, 8))
    assert told.end.n_new_tokens == 75


def test_a_branch_that_stops_leaves_the_others(make_model: Callable[..., Decoder], drive: Any, draw_prompts: Any) -> None:
    model, prompts = make_model("MMA", tie_embeddings=False), draw_prompts(6, 3)
    free = generate_batch(model, prompts, 24)
    stop = Stopping(stop_ids=(free[0][5],))
    driver = drive(model)
    told = [driver.submit(prompt, 24, stopping=stop) for prompt in prompts]
    driver.finish()
    assert [each.ids() for each in told] == generate_batch(model, prompts, 24, stopping=stop)
    assert told[0].reasons == {0: FinishReason.STOP}


def test_a_row_that_repeats_itself_ends(make_model: Callable[..., Decoder], drive: Any) -> None:
    driver = drive(make_model("MA"))
    told = driver.submit([1, 2], 30, sampling=Sampling(allowed_ids=(5,)), stopping=Stopping(max_repeats=4))
    driver.finish()
    assert told.ids() == [5, 5, 5, 5]
    assert told.reasons == {0: FinishReason.STOP}


def test_log_p_is_that_of_the_model(make_model: Callable[..., Decoder], drive: Any, draw_prompts: Any) -> None:
    model, (prompt,) = make_model("MA", tie_embeddings=False), draw_prompts(7)
    driver = drive(model)
    told = driver.submit(prompt, 6, sampling=DRAWN, n_logprobs=3)
    driver.finish()
    ids = told.ids()
    log_p_TV = model(torch.tensor([prompt + ids]))[0].detach().log_softmax(-1)
    tokens = [event for event in told.events if isinstance(event, NewToken)]
    for place, event in enumerate(tokens, start=len(prompt) - 1):
        assert event.log_p == pytest.approx(float(log_p_TV[place, event.token_id]), abs=1e-4)
        wanted = log_p_TV[place].topk(3)
        assert [token for token, _ in event.likeliest] == wanted.indices.tolist()
        assert [log_p for _, log_p in event.likeliest] == pytest.approx(wanted.values.tolist(), abs=1e-4)


def test_more_rows_than_may_decode_wait(make_model: Callable[..., Decoder], drive: Any, draw_prompts: Any) -> None:
    model, prompts = make_model("MA", tie_embeddings=False), draw_prompts(3, 4, 5, 6, 7)
    driver = drive(model, max_rows=2)
    told = [driver.submit(prompt, 6) for prompt in prompts]
    most = 0
    while driver.engine.step():
        most = max(most, driver.engine.stats().n_decoding)
    assert most == 2
    assert [each.ids() for each in told] == [generate(model, prompt, 6) for prompt in prompts]


def test_a_long_prompt_never_keeps_others_waiting(make_model: Callable[..., Decoder], drive: Any, draw_prompts: Any) -> None:
    driver = drive(make_model("MA"))
    short, long = draw_prompts(3, 100)
    told = driver.submit(short, 30)
    driver.engine.step()
    driver.submit(long, 5)
    for n_tokens in range(2, 15):
        assert driver.engine.step()
        assert len(told.ids()) == n_tokens  # one more, whatever was read of the other
    driver.finish()


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"prompt": []}, UserError, "empty"),
        ({"prompt": [43]}, UserError, "0 to 42"),
        ({"prompt": [0.5]}, UserError, "whole numbers"),
        ({"n_new": 0}, UserError, "max_tokens"),
        ({"n": 0}, UserError, "use 1 to 64"),
        ({"n": 65}, UserError, "use 1 to 64"),
        ({"seed": 1 << 63}, UserError, "seed"),
        ({"n_logprobs": 44}, UserError, "n_logprobs"),
        ({"sampling": Sampling(allowed_ids=(43,))}, UserError, "allowed_ids"),
        ({"n_new": 400}, TooLongError, "together they may be 400"),
        ({"n_new": 300, "n": 60}, TooLongError, "bytes"),
        ({"tenant": "nobody"}, UnknownTenantError, "nobody"),
    ],
)
def test_what_cannot_be_done_is_refused_at_once(
    options: dict[str, Any], error: type[UserError], words: str, make_model: Callable[..., Decoder], drive: Any
) -> None:
    driver = drive(make_model("MA"), max_tokens=400, capacity_bytes=1 << 20)
    with pytest.raises(error, match=words):
        driver.submit(**({"prompt": [1, 2]} | options))
    assert not driver.engine.step()


def test_a_model_that_reads_both_ways_is_refused(make_model: Callable[..., Decoder]) -> None:
    with pytest.raises(RecipeError, match="keeps no states"):
        Engine(make_model("M", bidirectional=True))
