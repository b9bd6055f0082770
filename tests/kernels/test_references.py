"""The references agree with oracles written another way: matrices and sums in numpy, float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from tilth.kernels import rms_norm, ssd_scan, use_backend

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


def test_rms_norm_is_its_equation(rms_norm_inputs: Callable[..., Inputs]) -> None:
    inputs = rms_norm_inputs(3, 5, 17, dtype=torch.float64)
    with use_backend("reference"):
        y = rms_norm(**inputs, eps=1e-3).numpy()
    x, weight = inputs["x_D"].numpy(), inputs["weight_D"].numpy()
    for i, j in np.ndindex(3, 5):
        root = np.sqrt(np.dot(x[i, j], x[i, j]) / 17 + 1e-3)
        assert np.abs(y[i, j] - x[i, j] / root * weight).max() < 1e-14


def test_an_id_that_comes_back_resets_the_state() -> None:
    ids = torch.tensor([[0, 0, 1, 0, 0]], dtype=torch.int32)
    one = torch.ones(1, 5, 1, 1, dtype=torch.float64)
    for backend in ("reference", "cpu"):
        with use_backend(backend):
            y, _ = ssd_scan(one, one[..., 0], torch.tensor([-1e-9], dtype=torch.float64), one, one, segments_BT=ids)
        assert torch.allclose(y.flatten(), torch.tensor([1, 2, 1, 1, 2], dtype=torch.float64))
