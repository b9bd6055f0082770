"""RMSNorm as its equation, the truth that the other backends are tested against."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import silu

from tilth.kernels.backend import compute_dtype


def both_strands(weight_D: Tensor, reverse_complement: bool) -> Tensor:
    """Return the weight of each channel of x: with a second strand, followed by itself reversed."""
    return torch.cat([weight_D, weight_D.flip(0)]) if reverse_complement else weight_D


def rms_norm_reference(
    x_D: Tensor,
    weight_D: Tensor,
    bias_D: Tensor | None,
    residual_D: Tensor | None,
    gate_D: Tensor | None,
    eps: float,
    norm_before_gate: bool,
    group_size: int,
    reverse_complement: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return y (..., D), x + residual (..., D), and 1 / rms of each group (..., groups)."""
    dtype = compute_dtype(*[t for t in (x_D, weight_D, bias_D, residual_D, gate_D) if t is not None])
    h = x_D.to(dtype)
    if residual_D is not None:
        h = h + residual_D.to(dtype)
    gated = h
    if gate_D is not None and not norm_before_gate:
        gated = h * silu(gate_D.to(dtype))
    groups = gated.unflatten(-1, (-1, group_size))
    rstd = torch.rsqrt(groups.square().mean(dim=-1) + eps)
    y = (groups * rstd.unsqueeze(-1)).flatten(-2) * both_strands(weight_D.to(dtype), reverse_complement)
    if bias_D is not None:
        y = y + both_strands(bias_D.to(dtype), reverse_complement)
    if gate_D is not None and norm_before_gate:
        y = y * silu(gate_D.to(dtype))
    return y.to(x_D.dtype), h.to(x_D.dtype if residual_D is None else residual_D.dtype), rstd


def forward(
    x_D: Tensor,
    weight_D: Tensor,
    bias_D: Tensor | None,
    residual_D: Tensor | None,
    gate_D: Tensor | None,
    eps: float,
    norm_before_gate: bool,
    group_size: int,
    reverse_complement: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return y (..., D), x + residual (empty without one), and 1 / rms of each group (..., groups)."""
    y_D, h_D, rstd = rms_norm_reference(
        x_D, weight_D, bias_D, residual_D, gate_D, eps, norm_before_gate, group_size, reverse_complement
    )
    return y_D.contiguous(), x_D.new_empty(0) if residual_D is None else h_D.contiguous(), rstd.contiguous()


def backward(
    dy_D: Tensor,
    dh_D: Tensor | None,
    x_D: Tensor,
    weight_D: Tensor,
    bias_D: Tensor | None,
    gate_D: Tensor | None,
    rstd: Tensor,
    dtype: torch.dtype,
    eps: float,
    norm_before_gate: bool,
    group_size: int,
    reverse_complement: bool,
) -> list[Tensor]:
    """Return the gradients by differentiating the reference itself, at x + residual, whose gradient is that of both."""

    def normalise(h_D: Tensor, weight_D: Tensor, *others: Tensor) -> tuple[Tensor, Tensor]:
        rest = iter(others)
        bias, gate = None if bias_D is None else next(rest), None if gate_D is None else next(rest)
        y_D, h_D, _ = rms_norm_reference(h_D, weight_D, bias, None, gate, eps, norm_before_gate, group_size, reverse_complement)
        return y_D, h_D

    _, differentiate = torch.func.vjp(normalise, x_D, weight_D, *[t for t in (bias_D, gate_D) if t is not None])
    dh, *others = differentiate((dy_D.to(x_D.dtype), torch.zeros_like(x_D) if dh_D is None else dh_D))
    gradients = [dh.to(dtype), *others] + ([dh] if x_D.dtype != dtype else [])
    return [gradient.contiguous() for gradient in gradients]
