"""generate_batch(): prompts of different lengths together give each row what it gets alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from tilth.errors import UserError
from tilth.inference.generate import generate, generate_batch
from tilth.inference.sampling import Sampling
from tilth.inference.states import join, select_rows
from tilth.inference.stopping import Stopping
from tilth.models.decoder import Decoder

LENGTHS = [5, 1, 9, 5, 17, 2]
MODELS: list[dict[str, Any]] = [{"layers": layers} for layers in ("M", "A", "MMA", "SA", "DA")] + [
    {"layers": "AM", "rope_theta": None}
]


def _prompts() -> list[list[int]]:
    return [torch.randint(0, 43, (length,)).tolist() for length in LENGTHS]


@pytest.mark.parametrize("changes", MODELS)
def test_greedy_rows_equal_those_generated_alone(changes: dict[str, Any], make_model: Callable[..., Decoder]) -> None:
    model, prompts = make_model(**changes, tie_embeddings=False), _prompts()
    together = generate_batch(model, prompts, 20)
    assert together == [generate(model, prompt, 20) for prompt in prompts]
    assert len({token for row in together for token in row}) > 5


@pytest.mark.parametrize("changes", MODELS)
def test_joined_states_give_the_logits_of_full_forwards(changes: dict[str, Any], make_model: Callable[..., Decoder]) -> None:
    model, prompts = make_model(**changes).double(), _prompts()
    tails = torch.randint(0, 43, (len(prompts), 6))
    parts = [model.empty_states(1, capacity=3) for _ in prompts]
    for prompt, states in zip(prompts, parts, strict=True):
        model.prefill(torch.tensor([prompt]), states)
    states = join(parts)
    assert states.lengths_B is not None
    assert states.lengths_B.tolist() == LENGTHS
    for position in range(6):
        logits = model.step(tails[:, position], states)
        if position == 2:  # rows may leave and change places in between
            kept = torch.tensor([4, 0, 5])
            states, tails, prompts, logits = select_rows(states, kept), tails[kept], [prompts[i] for i in kept], logits[kept]
        for row, prompt in enumerate(prompts):
            whole = torch.tensor([prompt + tails[row, : position + 1].tolist()])
            assert (logits[row] - model(whole)[0, -1]).abs().max() < 1e-9


def test_joined_rows_of_one_length_need_no_lengths(make_model: Callable[..., Decoder]) -> None:
    model = make_model("MA")
    parts = [model.empty_states(2), model.empty_states(1, capacity=99)]
    for states in parts:
        model.prefill(torch.zeros(len(states.layers[0].conv_inputs), 4, dtype=torch.long), states)  # type: ignore[union-attr]
    assert join(parts).lengths_B is None


def test_rows_that_differ_take_one_token_at_a_time(make_model: Callable[..., Decoder]) -> None:
    model = make_model("MA")
    parts = [model.empty_states(1), model.empty_states(1)]
    for n_tokens, states in zip((2, 3), parts, strict=True):
        model.prefill(torch.zeros(1, n_tokens, dtype=torch.long), states)
    with pytest.raises(ValueError, match="one token at a time"):
        model.prefill(torch.zeros(2, 2, dtype=torch.long), join(parts))


def test_a_row_drawn_in_another_batch_is_the_same(make_model: Callable[..., Decoder]) -> None:
    model, prompts = make_model("MA"), _prompts()
    how, seeds = Sampling(temperature=1.2, top_k=30, top_p=0.95), [7, 8, 9, 10, 11, 12]
    whole = generate_batch(model, prompts, 15, how, seeds=seeds)
    assert generate_batch(model, prompts[4:1:-1], 15, how, seeds=seeds[4:1:-1]) == whole[4:1:-1]
    assert generate_batch(model, prompts, 15, how, seeds=range(20, 26)) != whole
    state = torch.get_rng_state()
    generate_batch(model, prompts, 2, how)
    assert torch.equal(state, torch.get_rng_state())


def test_rows_end_by_themselves_while_others_go_on(make_model: Callable[..., Decoder]) -> None:
    model, prompts = make_model("MMA", tie_embeddings=False), _prompts()
    free = generate_batch(model, prompts, 24)
    stops = (free[0][3], free[2][10])
    wanted = [row[: min((row.index(stop) for stop in stops if stop in row), default=24)] for row in free]
    assert generate_batch(model, prompts, 24, stopping=Stopping(stop_ids=stops)) == wanted
    assert len({len(row) for row in wanted}) > 2


def test_a_row_that_repeats_itself_ends(make_model: Callable[..., Decoder]) -> None:
    model = make_model("MA")
    only = Sampling(temperature=1.0, allowed_ids=(5,))
    assert generate_batch(model, [[1, 2]], 30, only, Stopping(max_repeats=4)) == [[5, 5, 5, 5]]


@pytest.mark.parametrize(
    ("ids", "ends"),
    [([1, 2, 1, 2, 1, 2], True), ([9, 3, 3, 3], True), ([1, 2, 1, 2], False), ([1, 2, 3] * 2 + [1, 2], False), ([], False)],
)
def test_what_a_circle_is(ids: list[int], ends: bool) -> None:
    assert Stopping(max_repeats=3).goes_in_circles(ids) is ends
    assert not Stopping().goes_in_circles(ids)


def test_only_allowed_ids_are_drawn(make_model: Callable[..., Decoder]) -> None:
    how = Sampling(temperature=2.0, allowed_ids=(7, 8, 9, 10))
    drawn = generate_batch(make_model("MA"), _prompts(), 40, how)
    assert {token for row in drawn for token in row} == {7, 8, 9, 10}


def test_no_prompts_no_answers(make_model: Callable[..., Decoder]) -> None:
    assert generate_batch(make_model("M"), [], 5) == []
    assert generate_batch(make_model("M"), [[1], [2, 3]], 0) == [[], []]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"prompts": [[1], []]}, "empty"),
        ({"prompts": [[1], [43]]}, "0 to 42"),
        ({"seeds": [1]}, "1 seeds for 2"),
        ({"sampling": Sampling(allowed_ids=(43,))}, "allowed_ids has 43"),
    ],
)
def test_bad_input_is_refused(changes: dict[str, Any], words: str, make_model: Callable[..., Decoder]) -> None:
    with pytest.raises(UserError, match=words):
        generate_batch(make_model("M"), **({"prompts": [[1], [2]], "n_new_tokens": 3} | changes))


def test_one_repeat_is_none() -> None:
    with pytest.raises(UserError, match="max_repeats"):
        Stopping(max_repeats=1)
