"""Lookup on the CPU: torch's own gather, and a gradient by sums over sorted ids or in the order of the tokens."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from tilth.kernels.embedding.reference import check_ids


def forward(ids: Tensor, weight_VD: Tensor, scale: float) -> Tensor:
    """Return scale * weight[ids] (..., D)."""
    try:
        rows = functional.embedding(ids, weight_VD)
    except IndexError:
        check_ids(ids, weight_VD.shape[0])  # says which id it is
        raise
    return rows if scale == 1.0 else rows.mul_(scale)


def backward(dy_D: Tensor, ids: Tensor, n_rows: int, padding_index: int | None, scale: float) -> Tensor:
    """Return the gradient of the weight (V, D)."""
    dy, ids = dy_D.reshape(-1, dy_D.shape[-1]).contiguous(), ids.reshape(-1)
    if dy.element_size() >= 4 and len(ids) < n_rows // 2:
        # Few tokens: one thread adds them in their order.
        dweight_VD = dy.new_zeros(n_rows, dy.shape[1]).index_add_(0, ids, dy)
    else:
        # A bag of tokens for each row, which one thread sums, in their order and in float32 for 16 bits.
        sorted_ids, order = ids.long().sort(stable=True)
        bounds = torch.searchsorted(sorted_ids, torch.arange(n_rows + 1))
        dweight_VD = torch.embedding_bag(dy, order, bounds, include_last_offset=True, mode=0)[0]
    if scale != 1.0:
        dweight_VD.mul_(scale)
    if padding_index is not None:
        dweight_VD[padding_index] = 0
    return dweight_VD
