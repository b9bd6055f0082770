"""The lookup as its equation, the truth that the other backends are tested against."""

from __future__ import annotations

import torch
from torch import Tensor

from tilth.kernels.backend import compute_dtype


def check_ids(ids: Tensor, n_rows: int) -> None:
    """Raise ValueError where an id is not in the table; waits for the device."""
    if ids.numel() == 0:
        return
    low, high = (int(bound) for bound in ids.aminmax())
    if low < 0 or high >= n_rows:
        raise ValueError(f"ids reach from {low} to {high}; expected 0 to {n_rows - 1}, the rows of weight_VD")


def embedding_reference(ids: Tensor, weight_VD: Tensor, scale: float) -> Tensor:
    """Return scale * weight[ids] (..., D)."""
    rows = weight_VD.to(compute_dtype(weight_VD))[ids.long()]
    return (rows * scale).to(weight_VD.dtype)


def forward(ids: Tensor, weight_VD: Tensor, scale: float) -> Tensor:
    """Return scale * weight[ids] (..., D)."""
    check_ids(ids, weight_VD.shape[0])
    return embedding_reference(ids, weight_VD, scale).contiguous()


def backward(dy_D: Tensor, ids: Tensor, n_rows: int, padding_index: int | None, scale: float) -> Tensor:
    """Return the gradient of the weight (V, D) by differentiating the reference itself, which is linear: any weight will do."""
    zeros = dy_D.new_zeros((n_rows, dy_D.shape[-1]))
    _, differentiate = torch.func.vjp(lambda weight_VD: embedding_reference(ids, weight_VD, scale), zeros)
    dweight_VD = differentiate(dy_D)[0].contiguous()
    if padding_index is not None:
        dweight_VD[padding_index] = 0
    return dweight_VD
