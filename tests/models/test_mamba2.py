"""The Mamba-2 mixer against a recurrence written token by token in fp64 from the paper's definition."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tilth.models.decoder import Decoder
from tilth.models.layout import lay_out


def _recurrence(mixer: Any, config: Any, x_TD: np.ndarray) -> np.ndarray:
    """One document, one token at a time, one head at a time; numpy only."""
    weights = {name: p.detach().double().numpy() for name, p in mixer.named_parameters()}
    inner, width, n_heads, P, N = (
        config.d_inner,
        config.conv_width,
        config.n_ssm_heads,
        config.ssm_head_dim,
        config.d_state,
    )
    state = np.zeros((n_heads, P, N))
    window = np.zeros((config.d_conv, width))
    outputs = []
    for x in x_TD:
        row = weights["in_proj.weight"] @ x
        z, dt = row[:inner], row[inner + width :]
        window = np.concatenate([window[1:], row[None, inner : inner + width]])
        conv = np.array([window[:, c] @ weights["conv_weight"][c] for c in range(width)]) + weights["conv_bias"]
        conv = conv / (1 + np.exp(-conv))
        values, B, C = np.split(conv, [inner, inner + config.n_groups * N])
        y = np.empty(inner)
        for head in range(n_heads):
            step = math.log1p(math.exp(dt[head] + weights["dt_bias"][head]))
            group = slice(head // (n_heads // config.n_groups) * N, None)
            value = values[head * P : (head + 1) * P]
            decay = math.exp(-step * math.exp(weights["A_log"][head]))
            state[head] = decay * state[head] + step * np.outer(value, B[group][:N])
            y[head * P : (head + 1) * P] = state[head] @ C[group][:N] + weights["D"][head] * value
        y = y * z / (1 + np.exp(-z))
        groups = y.reshape(config.n_groups, -1)
        groups = groups / np.sqrt((groups**2).mean(1, keepdims=True) + config.norm_eps)
        outputs.append(weights["out_proj.weight"] @ (groups.reshape(-1) * weights["norm.weight"]))
    return np.stack(outputs)


def _mixer(make_model: Callable[..., Decoder], **changes: Any) -> tuple[Any, Any]:
    model = make_model("M", **changes)
    mixer: Any = model.blocks[0].mixer
    with torch.no_grad():
        mixer.D.uniform_(-1, 2)
        mixer.norm.weight.uniform_(0.5, 2)
    return mixer, model.config


def _run(mixer: Any, config: Any, x_BTD: Tensor, segments: Tensor | None = None) -> Tensor:
    ids = torch.zeros(x_BTD.shape[:2], dtype=torch.long)
    output: Tensor = mixer(x_BTD, lay_out(config, ids, segments, 0))
    return output.detach()


@pytest.mark.parametrize(
    "changes",
    [{}, {"n_groups": 2}, {"n_groups": 4, "d_conv": 2}, {"expand": 3, "chunk_size": 64}, {"d_conv": 1}],
)
def test_mixer_equals_the_recurrence(changes: dict[str, Any], make_model: Callable[..., Decoder]) -> None:
    mixer, config = _mixer(make_model, **changes)
    x = torch.randn(2, 37, config.d_model)
    wanted = np.stack([_recurrence(mixer, config, row.double().numpy()) for row in x])
    assert np.abs(_run(mixer, config, x).numpy() - wanted).max() < 1e-5 * np.abs(wanted).max()
    exact = _run(mixer.double(), config, x.double()).numpy()
    assert np.abs(exact - wanted).max() < 1e-12 * np.abs(wanted).max()


def test_packed_mixer_equals_a_recurrence_per_document(make_model: Callable[..., Decoder]) -> None:
    mixer, config = _mixer(make_model)
    mixer = mixer.double()
    lengths = [1, 9, 2, 3, 16, 6]
    x = torch.randn(1, sum(lengths), config.d_model, dtype=torch.float64)
    segments = torch.arange(6, dtype=torch.int32).repeat_interleave(torch.tensor(lengths))[None]
    wanted = np.concatenate([_recurrence(mixer, config, part[0].numpy()) for part in x.split(lengths, 1)])
    assert np.abs(_run(mixer, config, x, segments)[0].numpy() - wanted).max() < 1e-12 * np.abs(wanted).max()


def test_chunk_size_changes_speed_and_not_values(make_model: Callable[..., Decoder]) -> None:
    outputs = []
    for chunk_size in (1, 4, 16, 64):
        torch.manual_seed(3)
        mixer, config = _mixer(make_model, chunk_size=chunk_size)
        outputs.append(_run(mixer.double(), config, torch.randn(1, 50, config.d_model, dtype=torch.float64)))
    for output in outputs[1:]:
        assert (output - outputs[0]).abs().max() < 1e-12
