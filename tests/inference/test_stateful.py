"""Decoding with states equals the full forward pass, for every pattern and every cut."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from tilth.models.decoder import Decoder

VARIANTS: list[dict[str, Any]] = [
    {"layers": "M"},
    {"layers": "A"},
    {"layers": "MMA"},
    {"layers": "AM*2"},
    {"layers": "A", "rope_theta": None},
    {"layers": "MA", "n_groups": 2, "d_conv": 2},
    {"layers": "M", "d_conv": 1, "d_ff": 0},
    {"layers": "MA", "tie_embeddings": False, "n_kv_heads": 4},
]
# in float64: in float32 the rounding of the full pass alone is larger than what a wrong state of small models may be
TOLERANCE = 1e-9


@pytest.mark.parametrize("changes", VARIANTS)
def test_every_step_equals_the_full_forward(changes: dict[str, Any], make_model: Callable[..., Decoder]) -> None:
    model = make_model(**changes).double()
    ids = torch.randint(0, 43, (3, 21))
    full = model(ids).detach()
    # a capacity of 2 makes the key buffers grow three times
    states = model.empty_states(3, capacity=2)
    for position in range(21):
        logits = model.step(ids[:, position], states)
        assert (logits - full[:, position]).abs().max() < TOLERANCE
    assert states.n_tokens == 21


@pytest.mark.parametrize("changes", VARIANTS)
def test_prefill_may_be_cut_anywhere(changes: dict[str, Any], make_model: Callable[..., Decoder]) -> None:
    model = make_model(**changes).double()
    ids = torch.randint(0, 43, (2, 19))
    full = model(ids).detach()
    for cut in range(1, 18):
        states = model.empty_states(2)
        assert (model.prefill(ids[:, :cut], states) - full[:, cut - 1]).abs().max() < TOLERANCE
        assert (model.prefill(ids[:, cut:-1], states) - full[:, -2]).abs().max() < TOLERANCE
        assert (model.step(ids[:, -1], states) - full[:, -1]).abs().max() < TOLERANCE


@pytest.mark.parametrize("layers", ["M", "MA"])
def test_states_hold_no_gradient(layers: str, make_model: Callable[..., Decoder]) -> None:
    model = make_model(layers)
    states = model.empty_states(1)
    assert not model.prefill(torch.zeros(1, 5, dtype=torch.long), states).requires_grad
    tensors = [value for layer in states.layers for value in vars(layer).values() if torch.is_tensor(value)]
    assert len(tensors) == 2 * len(layers)
    assert not any(tensor.requires_grad for tensor in tensors)


def test_segments_are_refused_in_the_middle_of_a_row(make_model: Callable[..., Decoder]) -> None:
    model, ids = make_model("M"), torch.zeros(1, 4, dtype=torch.long)
    states = model.empty_states(1)
    model.prefill(ids, states)
    with pytest.raises(ValueError, match="from its start"):
        model.hidden(ids, torch.zeros(1, 4, dtype=torch.int32), states)
