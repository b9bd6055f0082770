"""The references agree with oracles written another way: matrices and sums in numpy, float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from tilth.kernels import attention, rms_norm, use_backend

Inputs = dict[str, Any]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("causal", "n_queries"), [(True, 19), (True, 4), (True, 1), (False, 19), (False, 4)])
def test_attention_is_a_softmax_row_by_row(
    attention_inputs: Callable[..., Inputs], causal: bool, n_queries: int, packed: bool
) -> None:
    inputs = attention_inputs(2, n_queries, 19, 4, 2, 8, dtype=torch.float64, packed=packed)
    with use_backend("reference"):
        o = attention(**inputs, causal=causal, scale=0.3).numpy()
    q, k, v = (inputs[name].numpy() for name in ("q_BTHD", "k_BTGD", "v_BTGD"))
    ids = inputs["segments_BT"].numpy() if packed else np.zeros((2, 19))
    for b, row, h in np.ndindex(2, n_queries, 4):
        position = 19 - n_queries + row
        seen = [s for s in range(19) if ids[b, s] == ids[b, position] and (s <= position or not causal)]
        weights = np.exp([0.3 * (q[b, row, h] @ k[b, s, h // 2]) for s in seen])
        expected = sum(w * v[b, s, h // 2] for w, s in zip(weights / weights.sum(), seen, strict=True))
        assert np.abs(o[b, row, h] - expected).max() < 1e-12


def test_rms_norm_is_its_equation(rms_norm_inputs: Callable[..., Inputs]) -> None:
    inputs = rms_norm_inputs(3, 5, 17, dtype=torch.float64)
    with use_backend("reference"):
        y = rms_norm(**inputs, eps=1e-3).numpy()
    x, weight = inputs["x_D"].numpy(), inputs["weight_D"].numpy()
    for i, j in np.ndindex(3, 5):
        root = np.sqrt(np.dot(x[i, j], x[i, j]) / 17 + 1e-3)
        assert np.abs(y[i, j] - x[i, j] / root * weight).max() < 1e-14


def test_an_id_that_comes_back_is_seen_by_attention() -> None:
    ids = torch.tensor([[0, 0, 1, 0, 0]], dtype=torch.int32)
    zero = torch.zeros(1, 5, 1, 1, dtype=torch.float64)
    v = torch.arange(5, dtype=torch.float64).reshape(1, 5, 1, 1)
    for backend in ("reference", "cpu"):
        with use_backend(backend):
            o = attention(zero, zero, v, segments_BT=ids)
        assert torch.allclose(o.flatten(), torch.tensor([0, 0.5, 2, 4 / 3, 2], dtype=torch.float64))
