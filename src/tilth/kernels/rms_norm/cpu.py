"""RMSNorm on the CPU with as few passes over memory as torch allows."""

from __future__ import annotations

import torch
from torch import Tensor

from tilth.kernels.backend import compute_dtype


def forward(x_D: Tensor, weight_D: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return the normalised tensor (..., D) and the reciprocal root mean square (..., 1)."""
    dtype = compute_dtype(x_D, weight_D)
    x = x_D.to(dtype).contiguous()
    # vector_norm squares and sums in one pass; x.square().mean() writes a temporary as large as x.
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    rstd = norm.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
    y = torch.mul(x, rstd).mul_(weight_D.to(dtype))
    return y.to(x_D.dtype), rstd


def backward(dy_D: Tensor, x_D: Tensor, weight_D: Tensor, rstd: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return the gradients of x (..., D) and weight (D,).

    With n = x * rstd and g = dy * weight: dx = rstd * (g - n * mean(g * n)), dweight = sum(dy * n).
    """
    dtype = compute_dtype(x_D, weight_D)
    size = x_D.shape[-1]
    dy, n = dy_D.to(dtype).reshape(-1, size), x_D.to(dtype).reshape(-1, size) * rstd.reshape(-1, 1)
    dy_n = dy * n
    dweight = dy_n.sum(dim=0)
    weight = weight_D.to(dtype)
    # mean(g * n) is a matrix-vector product: no temporary for g * n.
    mean = torch.mv(dy_n, weight).div_(size).unsqueeze(-1)
    dx = torch.mul(dy, weight, out=dy_n).sub_(n.mul_(mean)).mul_(rstd.reshape(-1, 1))
    return dx.reshape(x_D.shape).to(x_D.dtype), dweight.to(weight_D.dtype)
