"""Operations on states: fork, select, size."""

from __future__ import annotations

from collections.abc import Callable

import torch

from tilth.inference.states import fork, select_rows, size_bytes
from tilth.models.decoder import Decoder


def test_a_fork_decodes_each_continuation_as_if_alone(make_model: Callable[..., Decoder]) -> None:
    model = make_model("MA")
    prompts, tails = torch.randint(0, 43, (2, 7)), torch.randint(0, 43, (6, 4))
    states = model.empty_states(2)
    model.prefill(prompts, states)
    forked = fork(states, 3)
    for position in range(4):
        logits = model.step(tails[:, position], forked)
    whole = torch.cat([prompts.repeat_interleave(3, 0), tails], dim=1)
    assert (logits - model(whole)[:, -1]).abs().max() < 1e-5
    # the prompt's states are untouched: another continuation may start from them
    again = model.step(tails[:2, 0], states)
    assert (again - model(torch.cat([prompts, tails[:2, :1]], dim=1))[:, -1]).abs().max() < 1e-5


def test_select_rows_keeps_the_chosen_ones(make_model: Callable[..., Decoder]) -> None:
    model = make_model("AM")
    ids = torch.randint(0, 43, (3, 6))
    states = model.empty_states(3)
    model.prefill(ids[:, :5], states)
    kept = select_rows(states, torch.tensor([2, 0]))
    assert kept.n_tokens == 5
    logits = model.step(ids[[2, 0], 5], kept)
    assert (logits - model(ids[[2, 0]])[:, -1]).abs().max() < 1e-5


def test_size_counts_every_buffer(make_model: Callable[..., Decoder]) -> None:
    model = make_model("MA")
    keys = 2 * 5 * 10 * 2 * 8
    mamba2 = 5 * (3 * (64 + 2 * 8) + 4 * 16 * 8)
    assert size_bytes(model.empty_states(5, capacity=10)) == 4 * (keys + mamba2)


def test_key_buffers_double_so_that_decoding_copies_little(make_model: Callable[..., Decoder]) -> None:
    states = make_model("A").empty_states(1, capacity=4)
    capacities = []
    for _ in range(9):
        states.layers[0].append(torch.zeros(1, 1, 2, 8), torch.zeros(1, 1, 2, 8))  # type: ignore[union-attr]
        capacities.append(states.layers[0].keys.shape[1])  # type: ignore[union-attr]
    assert capacities == [4, 4, 4, 4, 8, 8, 8, 8, 16]
