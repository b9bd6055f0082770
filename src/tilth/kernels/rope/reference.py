"""Rotary embedding as its equation, the truth that the other backends are tested against."""

from __future__ import annotations

import torch
from torch import Tensor

from tilth.kernels.backend import compute_dtype


def check_positions(positions_BT: Tensor | None, n_positions: int) -> None:
    """Raise ValueError where a position is not in the tables; waits for the device."""
    if positions_BT is None or positions_BT.numel() == 0:
        return
    low, high = (int(bound) for bound in positions_BT.aminmax())
    if low < 0 or high >= n_positions:
        raise ValueError(f"positions_BT (or offsets_B and an index) reach from {low} to {high}; expected 0 to {n_positions - 1}")


def rope_reference(
    x_BTHD: Tensor, cos_TR: Tensor, sin_TR: Tensor, positions_BT: Tensor | None, interleaved: bool, inverse: bool
) -> Tensor:
    """Return (first cos - second sin, second cos + first sin) for each pair of channels, the rest unchanged."""
    dtype, n_pairs = compute_dtype(x_BTHD, cos_TR), cos_TR.shape[1]
    index = torch.arange(x_BTHD.shape[1], device=x_BTHD.device) if positions_BT is None else positions_BT.long()
    cos, sin = (table[index].to(dtype).unsqueeze(-2) for table in (cos_TR, sin_TR))
    if inverse:
        sin = -sin
    turning, rest = x_BTHD.to(dtype).split([2 * n_pairs, x_BTHD.shape[3] - 2 * n_pairs], dim=-1)
    pairs = turning.unflatten(-1, (n_pairs, 2) if interleaved else (2, n_pairs))
    dim = -1 if interleaved else -2
    first, second = pairs.unbind(dim)
    turned = torch.stack([first * cos - second * sin, second * cos + first * sin], dim).flatten(-2)
    return torch.cat([turned, rest], dim=-1).to(x_BTHD.dtype)


def forward(
    x_BTHD: Tensor, cos_TR: Tensor, sin_TR: Tensor, positions_BT: Tensor | None, interleaved: bool, inverse: bool
) -> Tensor:
    """Return the turned tensor (B, T, H, D)."""
    check_positions(positions_BT, cos_TR.shape[0])
    return rope_reference(x_BTHD, cos_TR, sin_TR, positions_BT, interleaved, inverse).contiguous()


def backward(
    dy_BTHD: Tensor, cos_TR: Tensor, sin_TR: Tensor, positions_BT: Tensor | None, interleaved: bool, inverse: bool
) -> Tensor:
    """Return the gradient of x by differentiating the reference itself, which is linear: any x will do."""
    _, differentiate = torch.func.vjp(
        lambda x_BTHD: rope_reference(x_BTHD, cos_TR, sin_TR, positions_BT, interleaved, inverse), torch.zeros_like(dy_BTHD)
    )
    return differentiate(dy_BTHD)[0].contiguous()
