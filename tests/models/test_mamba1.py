"""The Mamba mixer against a recurrence written token by token in fp64 from the paper's definition."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from tilth.models.config import ModelConfig
from tilth.models.decoder import Decoder
from tilth.models.layout import lay_out
from tilth.models.mixers.mamba1 import Mamba1


def _silu(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-x))


def _recurrence(mixer: Any, config: Any, x_TD: np.ndarray) -> np.ndarray:
    """One document, one token at a time; numpy only."""
    w = {name: p.detach().double().numpy() for name, p in mixer.named_parameters()}
    state = np.zeros((config.d_inner, config.d_state))
    window = np.zeros((config.d_conv, config.d_inner))
    outputs = []
    for x_D in x_TD:
        x, z = np.split(w["in_proj.weight"] @ x_D, 2)
        window = np.concatenate([window[1:], x[None]])
        u = _silu((window * w["conv_weight"].T).sum(0) + w["conv_bias"])
        dt, B, C = np.split(w["x_proj.weight"] @ u, [config.dt_rank, config.dt_rank + config.d_state])
        step = np.log1p(np.exp(w["dt_proj.weight"] @ dt + w["dt_bias"]))[:, None]
        state = np.exp(-step * np.exp(w["A_log"])) * state + step * u[:, None] * B
        outputs.append(w["out_proj.weight"] @ ((state @ C + w["D"] * u) * _silu(z)))
    return np.stack(outputs)


@pytest.mark.parametrize("changes", [{}, {"dt_rank": 5, "d_state": 3, "d_conv": 2, "expand": 3}])
def test_mixer_is_the_recurrence(make_model: Callable[..., Decoder], changes: dict[str, Any]) -> None:
    model = make_model("S", **changes).double()
    mixer: Any = model.blocks[0].mixer
    with torch.no_grad():
        mixer.D.uniform_(-1, 2)
    x_BTD = torch.randn(1, 19, 32, dtype=torch.float64)
    layout = lay_out(model.config, torch.zeros(1, 19, dtype=torch.int64), None, 0)
    expected = _recurrence(mixer, model.config, x_BTD[0].numpy())
    assert np.abs(mixer(x_BTD, layout)[0].detach().numpy() - expected).max() < 1e-12


def test_a_state_continues_where_the_text_was_cut(make_model: Callable[..., Decoder]) -> None:
    model = make_model("SAS")
    ids = torch.randint(0, 43, (2, 21))
    states = model.empty_states(2)
    model.prefill(ids[:, :9], states)
    last = [model.step(ids[:, t], states) for t in range(9, 21)]
    assert (torch.stack(last, 1) - model(ids)[:, 9:]).abs().max() < 1e-4


def test_time_steps_begin_in_the_published_range() -> None:
    mixer = Mamba1(ModelConfig(vocab_size=43, d_model=64, layers="S", d_state=16))
    steps = torch.nn.functional.softplus(mixer.dt_bias.detach())
    assert float(steps.min()) >= 1e-4
    assert float(steps.max()) <= 0.1 + 1e-6
    assert torch.allclose(mixer.A_log.detach().exp(), torch.arange(1.0, 17.0).expand_as(mixer.A_log))
