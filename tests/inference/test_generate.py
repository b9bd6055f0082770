"""generate(): equal to taking the argmax of full forward passes, repeatable, and strict about its input."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from tilth.errors import UserError
from tilth.inference.generate import generate
from tilth.models.decoder import Decoder

PROMPT = [3, 1, 4, 1, 5]


def _greedy_by_full_forward(model: Decoder, n_new_tokens: int) -> list[int]:
    ids = list(PROMPT)
    for _ in range(n_new_tokens):
        ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
    return ids[len(PROMPT) :]


@pytest.mark.parametrize("layers", ["M", "A", "MMA"])
def test_greedy_equals_full_forwards(layers: str, make_model: Callable[..., Decoder]) -> None:
    model = make_model(layers, tie_embeddings=False)
    wanted = _greedy_by_full_forward(model, 20)
    assert generate(model, PROMPT, 20) == wanted
    assert len(set(wanted)) > 3


def test_a_stop_token_ends_and_is_not_returned(make_model: Callable[..., Decoder]) -> None:
    model = make_model("MMA", tie_embeddings=False)
    free = generate(model, PROMPT, 20)
    stop = free[6]
    assert generate(model, PROMPT, 20, stop_id=stop) == free[: free.index(stop)]


def test_a_seed_repeats_and_another_differs(make_model: Callable[..., Decoder]) -> None:
    model = make_model("MA")
    drawn = [generate(model, PROMPT, 30, temperature=1.0, seed=seed) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert all(0 <= token < 43 for token in drawn[0])
    state = torch.get_rng_state()
    generate(model, PROMPT, 3, temperature=1.0)
    assert torch.equal(state, torch.get_rng_state())


def test_top_1_is_greedy_at_any_temperature(make_model: Callable[..., Decoder]) -> None:
    model = make_model("MA", tie_embeddings=False)
    assert generate(model, PROMPT, 12, temperature=5.0, top_k=1) == generate(model, PROMPT, 12)


def test_nothing_asked_nothing_given(make_model: Callable[..., Decoder]) -> None:
    assert generate(make_model("M"), PROMPT, 0) == []


@pytest.mark.parametrize(
    ("prompt", "changes", "words"),
    [
        ([], {}, "empty"),
        ([43], {}, "0 to 42"),
        ([-1], {}, "token -1"),
        ([1], {"n_new_tokens": -1}, "n_new_tokens"),
        ([1], {"temperature": -0.5}, "temperature"),
        ([1], {"temperature": float("nan")}, "temperature"),
        ([1], {"top_k": 0}, "top_k"),
    ],
)
def test_bad_input_is_refused(
    prompt: list[int], changes: dict[str, float], words: str, make_model: Callable[..., Decoder]
) -> None:
    with pytest.raises(UserError, match=words):
        generate(make_model("M"), prompt, **({"n_new_tokens": 4} | changes))  # type: ignore[arg-type]
