"""RMSNorm as its equation, the truth that the other backends are tested against."""

from __future__ import annotations

import torch
from torch import Tensor

from tilth.kernels.backend import compute_dtype


def rms_norm_reference(x_D: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    """Return x / sqrt(mean(x^2) + eps) * weight; (..., D), (D,) -> (..., D)."""
    dtype = compute_dtype(x_D, weight_D)
    x = x_D.to(dtype)
    rstd = torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + eps)
    return (x * rstd * weight_D.to(dtype)).to(x_D.dtype)


def forward(x_D: Tensor, weight_D: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return the normalised tensor (..., D) and the reciprocal root mean square (..., 1)."""
    x = x_D.to(compute_dtype(x_D, weight_D))
    rstd = torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + eps)
    return rms_norm_reference(x_D, weight_D, eps).contiguous(), rstd.contiguous()


def backward(dy_D: Tensor, x_D: Tensor, weight_D: Tensor, rstd: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return the gradients of x and weight by differentiating the reference itself."""
    _, differentiate = torch.func.vjp(lambda x, w: rms_norm_reference(x, w, eps), x_D, weight_D)
    dx_D, dweight_D = differentiate(dy_D)
    return dx_D.contiguous(), dweight_D.contiguous()
