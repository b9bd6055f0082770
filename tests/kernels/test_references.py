"""The references agree with oracles written another way: matrices and sums in numpy, float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from tilth.kernels import attention, ssd_scan, use_backend

Inputs = dict[str, Any]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_ssd_scan_is_the_materialised_matrix(ssd_inputs: Callable[..., Inputs], groups: int, packed: bool) -> None:
    inputs = ssd_inputs(2, 23, 4, groups, dtype=torch.float64, packed=packed)
    with use_backend("reference"):
        y, final = ssd_scan(**inputs)
    numbers = {name: value.numpy() for name, value in inputs.items() if value is not None}
    for b in range(2):
        for h in range(4):
            expected_y, expected_final = _ssd_by_matrix(numbers, b, h, h // (4 // groups))
            assert np.abs(y[b, :, h].numpy() - expected_y).max() < 1e-12
            assert np.abs(final[b, h].numpy() - expected_final).max() < 1e-12


def _ssd_by_matrix(inputs: dict[str, np.ndarray], b: int, h: int, g: int) -> tuple[np.ndarray, np.ndarray]:
    """y = (L * C B^T) (dt x) with L built entry by entry as products of decays, never as a difference of sums."""
    x, dt = inputs["x_BTHP"][b, :, h], inputs["dt_BTH"][b, :, h]
    B, C = inputs["B_BTGN"][b, :, g], inputs["C_BTGN"][b, :, g]
    initial = inputs["initial_state_BHPN"][b, h]
    n_tokens = len(x)
    ids = inputs["segments_BT"][b] if "segments_BT" in inputs else np.zeros(n_tokens)
    decay = np.exp(dt * inputs["A_H"][h])
    keep = np.array([1.0, *(ids[1:] == ids[:-1])]) * decay
    L = np.zeros((n_tokens, n_tokens))
    for t in range(n_tokens):
        for s in range(t + 1):
            L[t, s] = np.prod(keep[s + 1 : t + 1])
    from_initial = np.array([np.prod(keep[: t + 1]) for t in range(n_tokens)])
    y = (L * (C @ B.T)) @ (dt[:, None] * x) + from_initial[:, None] * (C @ initial.T) + inputs["D_H"][h] * x
    final = from_initial[-1] * initial + (L[-1, :, None] * dt[:, None] * x).T @ B
    return y, final


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


def test_an_id_that_comes_back_is_seen_by_attention_and_resets_the_state() -> None:
    ids = torch.tensor([[0, 0, 1, 0, 0]], dtype=torch.int32)
    one = torch.ones(1, 5, 1, 1, dtype=torch.float64)
    v = torch.arange(5, dtype=torch.float64).reshape(1, 5, 1, 1)
    for backend in ("reference", "cpu"):
        with use_backend(backend):
            o = attention(torch.zeros_like(one), torch.zeros_like(one), v, segments_BT=ids)
            y, _ = ssd_scan(one, one[..., 0], torch.tensor([-1e-9], dtype=torch.float64), one, one, segments_BT=ids)
        assert torch.allclose(o.flatten(), torch.tensor([0, 0.5, 2, 4 / 3, 2], dtype=torch.float64))
        assert torch.allclose(y.flatten(), torch.tensor([1, 2, 1, 1, 2], dtype=torch.float64))
