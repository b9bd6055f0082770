"""RMSNorm on the CPU, in blocks of rows that stay in the cache from the first operation on them to the last."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import silu

from tilth.kernels.backend import compute_dtype
from tilth.kernels.rms_norm.reference import both_strands

# Elements of a block (benchmarks/kernels_cpu.py): forward has hardly a temporary that a cache could keep.
_FORWARD_BLOCK, _BACKWARD_BLOCK = 1 << 20, 1 << 17
# Of a few rows, as when decoding, most of the time would go into calls: torch's own norm is one.
_FEW = 1 << 17
_fused = torch.ops.aten._fused_rms_norm
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
    others = [t for t in (bias_D, residual_D, gate_D) if t is not None]
    dtype = compute_dtype(x_D, weight_D, *others)
    is_few = x_D.numel() <= _FEW and bias_D is None and residual_D is None and x_D.dtype == weight_D.dtype == dtype
    if is_few and gate_D is not None and gate_D.dtype == dtype and not norm_before_gate:
        x_D, gate_D = silu(gate_D).mul_(x_D), None
    if is_few and gate_D is None and not reverse_complement:
        if group_size == x_D.shape[-1]:
            y_D, rstd_G = _fused(x_D, [group_size], weight_D, eps)
            return y_D, x_D.new_empty(0), rstd_G
        y_Gd, rstd_G1 = _fused(x_D.unflatten(-1, (-1, group_size)), [group_size], None, eps)
        return y_Gd.flatten(-2).mul_(weight_D), x_D.new_empty(0), rstd_G1.squeeze(-1)
    weight = both_strands(weight_D.to(dtype), reverse_complement)
    bias = None if bias_D is None else both_strands(bias_D.to(dtype), reverse_complement)
    y_D = x_D.new_empty(x_D.shape)
    h_D = None if residual_D is None else residual_D.new_empty(residual_D.shape)
    rstd_G = x_D.new_empty((*x_D.shape[:-1], x_D.shape[-1] // group_size), dtype=dtype)
    for y, h, rstd, x, residual, gate in _blocks(_FORWARD_BLOCK, y_D, h_D, rstd_G, x_D, residual_D, gate_D):
        wide = x.to(dtype)
        if residual is not None:
            wide = torch.add(wide, residual, out=h) if h.dtype == dtype else wide + residual
            h.copy_(wide)  # nothing where they are one
        zs = None if gate is None else silu(gate.to(dtype))
        if zs is not None and not norm_before_gate:
            wide = zs.mul_(wide)
        groups = wide.unflatten(-1, (-1, group_size))
        # vector_norm squares and sums in one pass; x.square().mean() writes a temporary as large as x.
        torch.linalg.vector_norm(groups, dim=-1, out=rstd)
        rstd.square_().div_(group_size).add_(eps).rsqrt_()
        result = y if y.dtype == dtype else torch.empty(y.shape, dtype=dtype)
        torch.mul(groups, rstd.unsqueeze(-1), out=result.view(groups.shape))
        result.mul_(weight)
        if bias is not None:
            result.add_(bias)
        if zs is not None and norm_before_gate:
            result.mul_(zs)
        if result is not y:
            y.copy_(result)
    return y_D, x_D.new_empty(0) if h_D is None else h_D, rstd_G


def backward(
    dy_D: Tensor,
    dh_D: Tensor | None,
    x_D: Tensor,
    weight_D: Tensor,
    bias_D: Tensor | None,
    gate_D: Tensor | None,
    rstd_G: Tensor,
    dtype: torch.dtype,
    eps: float,
    norm_before_gate: bool,
    group_size: int,
    reverse_complement: bool,
) -> list[Tensor]:
    """Return the gradients of x, weight, bias and gate, and of the residual where its dtype is another."""
    wide = rstd_G.dtype
    weight = both_strands(weight_D.to(wide), reverse_complement)
    bias = None if bias_D is None else both_strands(bias_D.to(wide), reverse_complement)
    dweight, dbias = torch.zeros_like(weight), None if bias is None else torch.zeros_like(bias)
    dx_D = x_D.new_empty(x_D.shape, dtype=dtype)
    dresidual_D = None if x_D.dtype == dtype else x_D.new_empty(x_D.shape)
    dgate_D = None if gate_D is None else gate_D.new_empty(gate_D.shape)
    blocks = _blocks(_BACKWARD_BLOCK, dx_D, dresidual_D, dgate_D, dy_D, dh_D, x_D, gate_D, rstd_G)
    for dx, dresidual, dgate, dy, dh, x, gate, rstd in blocks:
        result, dz = _block_backward(
            dy.to(wide), x.to(wide), None if gate is None else gate.to(wide), rstd, weight, bias, dweight, dbias, norm_before_gate
        )
        if dh is not None:
            result.add_(dh)
        dx.copy_(result)
        if dresidual is not None:
            dresidual.copy_(result)
        if dgate is not None:
            dgate.copy_(dz)
    gradients = [dx_D, _add_strands(dweight, reverse_complement).to(weight_D.dtype)]
    if bias_D is not None and dbias is not None:
        gradients.append(_add_strands(dbias, reverse_complement).to(bias_D.dtype))
    return gradients + [gradient for gradient in (dgate_D, dresidual_D) if gradient is not None]


def _block_backward(
    dy: Tensor,
    x: Tensor,
    gate: Tensor | None,
    rstd_RG: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    dweight: Tensor,
    dbias: Tensor | None,
    norm_before_gate: bool,
) -> tuple[Tensor, Tensor | None]:
    """Return the gradients of x and gate, and add to those of weight and bias.

    With n = x * rstd and g = dy * weight: dx = rstd * (g - n * mean(g * n)), dweight = sum(dy * n). A gate before the norm
    turns x into x * silu(gate), one after it turns dy into dy * silu(gate).
    """
    zs, dgate = None if gate is None else silu(gate), None
    n = _scale_groups(x if zs is None or norm_before_gate else zs * x, rstd_RG)
    if gate is not None and zs is not None and norm_before_gate:
        ungated = n * weight if bias is None else torch.addcmul(bias, n, weight)
        dgate = _silu_backward(ungated.mul_(dy), gate)
        dy = zs.mul_(dy)
    if dbias is not None:
        dbias.add_(dy.sum(dim=0))
    dy_n = dy * n
    dweight.add_(dy_n.sum(dim=0))
    n = _scale_groups(n, _group_means(dy_n, weight, rstd_RG.shape[1]), out=n)
    dx = torch.mul(dy, weight, out=dy_n).sub_(n)
    _scale_groups(dx, rstd_RG, out=dx)
    if gate is not None and zs is not None and not norm_before_gate:
        dgate = _silu_backward(dx * x, gate)
        dx.mul_(zs)
    return dx, dgate


def _scale_groups(x_RD: Tensor, factor_RG: Tensor, out: Tensor | None = None) -> Tensor:
    """Multiply each group of channels by its factor."""
    groups = x_RD.unflatten(-1, (factor_RG.shape[1], -1))
    out = torch.empty(x_RD.shape, dtype=x_RD.dtype) if out is None else out
    torch.mul(groups, factor_RG.unsqueeze(-1), out=out.view(groups.shape))
    return out


def _group_means(dy_n_RD: Tensor, weight_D: Tensor, n_groups: int) -> Tensor:
    """Return the mean of dy * n * weight over each group (rows, groups), as products of matrices: no temporary."""
    group_size = len(weight_D) // n_groups
    if n_groups == 1:
        return torch.mv(dy_n_RD, weight_D).div_(group_size).unsqueeze(-1)
    groups = dy_n_RD.unflatten(-1, (n_groups, group_size))
    return torch.einsum("rgd,gd->rg", groups, weight_D.unflatten(0, (n_groups, group_size))).div_(group_size)


def _blocks(n_elements: int, like_D: Tensor, *others_D: Tensor | None) -> Iterator[tuple[Any, ...]]:
    """Yield all tensors' rows block by block, `n_elements` of the first one at a time; None for one that is not there."""
    n_rows, tensors_D = max(1, n_elements // like_D.shape[-1]), (like_D, *others_D)
    rows = [None if t is None else t.reshape(t.numel() // t.shape[-1], t.shape[-1]).split(n_rows) for t in tensors_D]
    n_blocks = max(len(blocks) for blocks in rows if blocks is not None)
    return zip(*([None] * n_blocks if blocks is None else blocks for blocks in rows), strict=True)


def _add_strands(gradient_D: Tensor, reverse_complement: bool) -> Tensor:
    """Return the gradient of a weight that both strands use, the second one reversed."""
    if not reverse_complement:
        return gradient_D
    first, second = gradient_D.chunk(2)
    return first + second.flip(0)
