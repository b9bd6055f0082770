"""RMSNorm on the CPU with as few passes over memory as torch allows."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import silu

from tilth.kernels.backend import compute_dtype
from tilth.kernels.rms_norm.reference import both_strands

_silu_backward = torch.ops.aten.silu_backward


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
    dtype = compute_dtype(*[t for t in (x_D, weight_D, bias_D, residual_D, gate_D) if t is not None])
    h = x_D.to(dtype).contiguous() if residual_D is None else torch.add(x_D.to(dtype), residual_D).contiguous()
    zs = None if gate_D is None else silu(gate_D.to(dtype))
    gated = h if zs is None or norm_before_gate else zs.mul_(h)
    groups = gated.unflatten(-1, (-1, group_size))
    # vector_norm squares and sums in one pass; x.square().mean() writes a temporary as large as x.
    norm = torch.linalg.vector_norm(groups, dim=-1, keepdim=True)
    rstd = norm.square_().div_(group_size).add_(eps).rsqrt_()
    y = torch.mul(groups, rstd).flatten(-2).mul_(both_strands(weight_D.to(dtype), reverse_complement))
    if bias_D is not None:
        y.add_(both_strands(bias_D.to(dtype), reverse_complement))
    if zs is not None and norm_before_gate:
        y.mul_(zs)
    return y.to(x_D.dtype), x_D.new_empty(0) if residual_D is None else h.to(residual_D.dtype), rstd.squeeze(-1)


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
    """Return the gradients of x, weight, bias and gate, and of the residual where its dtype is another.

    With n = x * rstd and g = dy * weight: dx = rstd * (g - n * mean(g * n)), dweight = sum(dy * n). A gate before the norm
    turns x into x * silu(gate), one after it turns dy into dy * silu(gate).
    """
    wide, n_channels = rstd.dtype, x_D.shape[-1]
    weight = both_strands(weight_D.to(wide), reverse_complement)
    dy, x = (t.to(wide).reshape(-1, n_channels) for t in (dy_D, x_D))
    gate = None if gate_D is None else gate_D.to(wide).reshape(-1, n_channels)
    rstd = rstd.reshape(-1, n_channels // group_size, 1)
    zs = None if gate is None else silu(gate)
    n = _scale_groups(x if zs is None or norm_before_gate else zs * x, rstd, out=None)
    dgate = None
    if gate is not None and zs is not None and norm_before_gate:
        ungated = n * weight
        if bias_D is not None:
            ungated.add_(both_strands(bias_D.to(wide), reverse_complement))
        dgate = _silu_backward(ungated.mul_(dy), gate)
        dy = zs.mul_(dy)
    dy_n = dy * n
    means, dweight = _group_means(dy_n, weight, group_size), dy_n.sum(dim=0)
    dx = torch.mul(dy, weight, out=dy_n).sub_(_scale_groups(n, means, out=n))
    _scale_groups(dx, rstd, out=dx)
    if gate is not None and zs is not None and not norm_before_gate:
        dgate = _silu_backward(dx * x, gate)
        dx.mul_(zs)
    if dh_D is not None:
        dx.add_(dh_D.reshape(-1, n_channels))
    dx = dx.reshape(x_D.shape)
    gradients = [dx.to(dtype), _add_strands(dweight, reverse_complement).to(weight_D.dtype)]
    if bias_D is not None:
        gradients.append(_add_strands(dy.sum(dim=0), reverse_complement).to(bias_D.dtype))
    if gate_D is not None and dgate is not None:
        gradients.append(dgate.reshape(gate_D.shape).to(gate_D.dtype))
    return gradients + ([dx.to(x_D.dtype)] if x_D.dtype != dtype else [])


def _scale_groups(x_RD: Tensor, factor_RG1: Tensor, out: Tensor | None) -> Tensor:
    """Multiply each group of channels by its factor."""
    groups = x_RD.unflatten(-1, (factor_RG1.shape[1], -1))
    return torch.mul(groups, factor_RG1, out=None if out is None else out.view(groups.shape)).flatten(-2)


def _group_means(dy_n_RD: Tensor, weight_D: Tensor, group_size: int) -> Tensor:
    """Return the mean of dy * n * weight over each group (rows, groups, 1), as products of matrices: no temporary."""
    if dy_n_RD.shape[1] == group_size:
        return torch.mv(dy_n_RD, weight_D).div_(group_size)[:, None, None]
    groups = dy_n_RD.unflatten(-1, (-1, group_size))
    return torch.einsum("rgd,gd->rg", groups, weight_D.unflatten(0, (-1, group_size))).div_(group_size).unsqueeze(-1)


def _add_strands(gradient_D: Tensor, reverse_complement: bool) -> Tensor:
    """Return the gradient of a weight that both strands use, the second one reversed."""
    if not reverse_complement:
        return gradient_D
    first, second = gradient_D.chunk(2)
    return first + second.flip(0)
