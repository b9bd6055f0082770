"""The attention mixer against a loop over heads and tokens with rotations as complex numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from tilth.kernels import rope
from tilth.models.decoder import Decoder
from tilth.models.layout import lay_out


def _turn(vector_D: np.ndarray, position: int, theta: float | None) -> np.ndarray:
    if theta is None:
        return vector_D
    half = len(vector_D) // 2
    turned = (vector_D[:half] + 1j * vector_D[half:]) * np.exp(1j * position * theta ** (-np.arange(half) / half))
    return np.concatenate([turned.real, turned.imag])


def _attend(mixer: Any, x_TD: np.ndarray, theta: float | None) -> np.ndarray:
    qkv = x_TD @ mixer.qkv_proj.weight.detach().double().numpy().T
    heads, groups, width = mixer.n_heads, mixer.n_kv_heads, mixer.head_dim
    q, k, v = np.split(qkv.reshape(len(x_TD), -1, width), [heads, heads + groups], axis=1)
    outputs = np.zeros((len(x_TD), heads, width))
    for head in range(heads):
        group = head // (heads // groups)
        keys = np.stack([_turn(k[t, group], t, theta) for t in range(len(x_TD))])
        for t in range(len(x_TD)):
            scores = keys[: t + 1] @ _turn(q[t, head], t, theta) / np.sqrt(width)
            shares = np.exp(scores - scores.max())
            outputs[t, head] = shares / shares.sum() @ v[: t + 1, group]
    return outputs.reshape(len(x_TD), -1) @ mixer.out_proj.weight.detach().double().numpy().T


@pytest.mark.parametrize("theta", [10_000.0, 100.0, None])
@pytest.mark.parametrize("n_kv_heads", [1, 2, 4])
def test_mixer_equals_the_loop(theta: float | None, n_kv_heads: int, make_model: Callable[..., Decoder]) -> None:
    model = make_model("A", rope_theta=theta, n_kv_heads=n_kv_heads)
    mixer: Any = model.blocks[0].mixer.double()
    lengths = [7, 1, 12]
    x = torch.randn(1, 20, 32, dtype=torch.float64)
    segments = torch.arange(3, dtype=torch.int32).repeat_interleave(torch.tensor(lengths))[None]
    layout = lay_out(model.config, torch.zeros(1, 20, dtype=torch.long), segments, 0)
    wanted = np.concatenate([_attend(mixer, part[0].numpy(), theta) for part in x.split(lengths, 1)])
    # the rotations are fp32 tables
    assert np.abs(mixer(x, layout).detach().numpy()[0] - wanted).max() < 1e-6 * np.abs(wanted).max()


def test_rotation_depends_on_distance_alone(make_model: Callable[..., Decoder]) -> None:
    config = make_model("A").config
    q, k = torch.randn(2, 1, 1, 1, 8, dtype=torch.float64)
    scores = []
    for start in (0, 1000, 100_000):
        layout = lay_out(config, torch.zeros(1, 6, dtype=torch.long), None, start)
        assert layout.rotation is not None
        cos_TR, sin_TR, _ = layout.rotation
        turned = [rope(vector, cos_TR[at : at + 1], sin_TR[at : at + 1]) for vector, at in ((q, 5), (k, 2))]
        scores.append(float((turned[0] * turned[1]).sum()))
    assert scores == pytest.approx([scores[0]] * 3, abs=1e-5)


def test_order_matters_only_with_positions(make_model: Callable[..., Decoder]) -> None:
    """Without RoPE the last token sees a set; with it, an order."""
    ids = torch.randint(0, 43, (1, 9))
    shuffled = torch.cat([ids[:, :8].flip(1), ids[:, 8:]], dim=1)
    for theta, same in ((None, True), (10_000.0, False)):
        model = make_model("A", rope_theta=theta)
        difference = (model(ids)[:, -1] - model(shuffled)[:, -1]).abs().max()
        assert bool(difference < 1e-5) is same
