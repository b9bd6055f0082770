"""Attention of e4m3 blocks on the CPU: the roundings of the GPU kernel, float32 products, some queries at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from tilth.kernels.attention_fp8.blocks import WEIGHT_SCALE, dequantize_blocks, of_rows, rotated, scales_of, seen_keys
from tilth.kernels.backend import compute_dtype

# Scores that are alive at once: they stay in the cache of a core.
_SCORES = 2**20


def quantize(x_BTHD: Tensor, x8_BTHD: Tensor, block_size: int, hadamard: bool, signs_D: Tensor | None) -> Tensor:
    """Write x8_BTHD and return the scales (B, N, H)."""
    if signs_D is not None and not bool((signs_D.abs() == 1).all()):
        raise ValueError("signs_D has other values than +1 and -1")
    y = rotated(x_BTHD, hadamard, signs_D, compute_dtype(x_BTHD))
    scales_BNH = scales_of(y, block_size)
    x8_BTHD.copy_(y * of_rows(scales_BNH.reciprocal(), y.shape[1], block_size))
    return scales_BNH.float()


def forward(
    q8_BTHD: Tensor,
    k8_BTGD: Tensor,
    v8_BTGD: Tensor,
    q_scales_BNH: Tensor,
    k_scales_BNG: Tensor,
    v_scales_BNG: Tensor,
    block_size: int,
    left: int,
    right: int,
    scale: float,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """Return (o_BTHD in `dtype`, lse_BHT)."""
    n_batch, n_queries, n_heads, head_dim = q8_BTHD.shape
    n_keys, n_groups = k8_BTGD.shape[1:3]
    computing = compute_dtype(q8_BTHD)
    q, k, v = (
        dequantize_blocks(x8, scales, block_size, computing)
        for x8, scales in ((q8_BTHD, q_scales_BNH), (k8_BTGD, k_scales_BNG), (v8_BTGD, v_scales_BNG))
    )
    o_BTHD = torch.zeros((n_batch, n_queries, n_heads, head_dim), dtype=dtype, device=q.device)
    lse_BHT = torch.full((n_batch, n_heads, n_queries), float("-inf"), dtype=computing, device=q.device)
    first_T, end_T = seen_keys(n_queries, n_keys, left, right, q.device)
    # Heads of a group are rows of one matrix: they share its keys.
    n_per_group = n_heads // n_groups
    q_BGTRD = q.view(n_batch, n_queries, n_groups, n_per_group, head_dim).permute(0, 2, 1, 3, 4)
    n_at_once = max(1, _SCORES // max(n_keys * n_per_group, 1))
    for start in range(0, n_queries, n_at_once):
        rows = slice(start, min(start + n_at_once, n_queries))
        first, end = int(first_T[rows].min()), int(end_T[rows].max())
        if first >= end:
            continue
        key_N = torch.arange(first, end, device=q.device)
        hidden_TN = (key_N < first_T[rows, None]) | (key_N >= end_T[rows, None])
        hidden_RN = hidden_TN.repeat_interleave(n_per_group, dim=0)
        for b in range(n_batch):
            for g in range(n_groups):
                some = q_BGTRD[b, g, rows].reshape(-1, head_dim)
                o, lse = _rows(some, k[b, first:end, g], v[b, first:end, g], hidden_RN, scale)
                heads = slice(g * n_per_group, (g + 1) * n_per_group)
                o_BTHD[b, rows, heads] = o.view(-1, n_per_group, head_dim).to(dtype)
                lse_BHT[b, heads, rows] = lse.view(-1, n_per_group).transpose(0, 1)
    return o_BTHD, lse_BHT


def _rows(q_RD: Tensor, k_ND: Tensor, v_ND: Tensor, hidden_RN: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Return output and log-sum-exp of some rows; one that sees no key gives 0 and -inf."""
    scores_RN = (q_RD @ k_ND.T).mul_(scale).masked_fill_(hidden_RN, float("-inf"))
    largest_R1 = scores_RN.amax(dim=1, keepdim=True)
    sees_none_R1 = largest_R1 == float("-inf")
    weights_RN = scores_RN.sub_(largest_R1.masked_fill(sees_none_R1, 0.0)).exp_()
    total_R1 = weights_RN.sum(dim=1, keepdim=True)
    rounded_RN = weights_RN.mul_(WEIGHT_SCALE).to(torch.float8_e4m3fn).to(q_RD.dtype)
    o_RD = (rounded_RN @ v_ND).div_(total_R1.masked_fill(sees_none_R1, 1.0) * WEIGHT_SCALE)
    return o_RD, (largest_R1 + total_R1.log()).squeeze(1)
