"""Rotary embedding on the CPU: one pass of products and one of sums, straight into the output."""

from __future__ import annotations

import torch
from torch import Tensor

from tilth.kernels.backend import compute_dtype
from tilth.kernels.rope.reference import check_positions


def forward(
    x_BTHD: Tensor, cos_TR: Tensor, sin_TR: Tensor, positions_BT: Tensor | None, interleaved: bool, inverse: bool
) -> Tensor:
    """Return the turned tensor (B, T, H, D)."""
    check_positions(positions_BT, cos_TR.shape[0])
    return _turn(x_BTHD, cos_TR, sin_TR, positions_BT, interleaved, inverse)


def backward(
    dy_BTHD: Tensor, cos_TR: Tensor, sin_TR: Tensor, positions_BT: Tensor | None, interleaved: bool, inverse: bool
) -> Tensor:
    """Return the gradient of x: a rotation's transpose is the rotation back."""
    return _turn(dy_BTHD, cos_TR, sin_TR, positions_BT, interleaved, not inverse)


def _turn(
    x_BTHD: Tensor, cos_TR: Tensor, sin_TR: Tensor, positions_BT: Tensor | None, interleaved: bool, inverse: bool
) -> Tensor:
    dtype, n_pairs = compute_dtype(x_BTHD, cos_TR), cos_TR.shape[1]
    cos, sin = (_by_token(table.to(dtype), positions_BT, x_BTHD.shape[1]) for table in (cos_TR, sin_TR))
    if inverse:
        sin = -sin
    y = torch.empty(x_BTHD.shape, dtype=dtype)
    x, turned = x_BTHD[..., : 2 * n_pairs].to(dtype), y[..., : 2 * n_pairs]
    if interleaved:
        # A pair of neighbours is a complex number, and torch multiplies those in one pass.
        numbers = torch.view_as_complex(x.contiguous().unflatten(-1, (n_pairs, 2)))
        turned.copy_(torch.view_as_real(numbers * torch.complex(cos, sin)).flatten(-2))
    else:
        torch.mul(x, torch.cat([cos, cos], dim=-1), out=turned)
        turned[..., :n_pairs].addcmul_(x[..., n_pairs:], sin, value=-1)
        turned[..., n_pairs:].addcmul_(x[..., :n_pairs], sin)
    y[..., 2 * n_pairs :] = x_BTHD[..., 2 * n_pairs :]
    return y.to(x_BTHD.dtype)


def _by_token(table_TR: Tensor, positions_BT: Tensor | None, n_tokens: int) -> Tensor:
    """Return the rows of the tokens, (T, 1, R) or (B, T, 1, R)."""
    if positions_BT is None:
        return table_TR[:n_tokens, None]
    return torch.nn.functional.embedding(positions_BT, table_TR).unsqueeze(-2)
