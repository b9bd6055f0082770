"""Attention of what e4m3 blocks stand for, with the whole matrix of scores: the truth for the other backends.

Its weights are not rounded, so that the error of those who round them shows; computing in e4m3 (`computing_in`) rounds
them, and says how large that error is by itself.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tilth.kernels.attention_fp8.blocks import WEIGHT_SCALE, dequantize_blocks, of_rows, rotated, scales_of, seen_keys
from tilth.kernels.backend import compute_dtype


def quantize(x_BTHD: Tensor, x8_BTHD: Tensor, block_size: int, hadamard: bool, signs_D: Tensor | None) -> Tensor:
    """Write x8_BTHD and return the scales (B, N, H)."""
    y = rotated(x_BTHD, hadamard, signs_D, compute_dtype(x_BTHD))
    scales_BNH = scales_of(y, block_size)
    x8_BTHD.copy_(y / of_rows(scales_BNH, y.shape[1], block_size))
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
    computing = compute_dtype(q8_BTHD)
    rounds_weights = computing == torch.float8_e4m3fn
    computing = torch.float32 if rounds_weights else computing
    heads_per_group = q8_BTHD.shape[2] // k8_BTGD.shape[2]
    q_BHTD = dequantize_blocks(q8_BTHD, q_scales_BNH, block_size, computing).transpose(1, 2)
    k_BHTD, v_BHTD = (
        dequantize_blocks(x8, scales, block_size, computing).transpose(1, 2).repeat_interleave(heads_per_group, dim=1)
        for x8, scales in ((k8_BTGD, k_scales_BNG), (v8_BTGD, v_scales_BNG))
    )
    n_queries, n_keys = q8_BTHD.shape[1], k8_BTGD.shape[1]
    first_T, end_T = seen_keys(n_queries, n_keys, left, right, q8_BTHD.device)
    key_N = torch.arange(n_keys, device=q8_BTHD.device)
    seen_TN = (key_N >= first_T[:, None]) & (key_N < end_T[:, None])
    scores_BHTN = (scale * (q_BHTD @ k_BHTD.transpose(-1, -2))).masked_fill(~seen_TN, float("-inf"))
    lse_BHT = torch.logsumexp(scores_BHTN, dim=-1)
    largest_BHT1 = scores_BHTN.amax(dim=-1, keepdim=True) if n_keys else lse_BHT[..., None]
    weights_BHTN = torch.exp(scores_BHTN - largest_BHT1.nan_to_num(neginf=0.0))
    total_BHT1 = weights_BHTN.sum(dim=-1, keepdim=True)
    if rounds_weights:
        weights_BHTN = (weights_BHTN * WEIGHT_SCALE).to(torch.float8_e4m3fn).to(computing) / WEIGHT_SCALE
    o_BHTD = (weights_BHTN @ v_BHTD) / total_BHT1.masked_fill(total_BHT1 == 0, 1.0)
    kept = torch.float64 if q8_BTHD.dtype == torch.float64 else torch.float32
    return o_BHTD.transpose(1, 2).to(dtype).contiguous(), lse_BHT.to(kept)
