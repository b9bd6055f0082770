"""Measures the error of FP8 attention as its paper does: outliers in the data, and FP8 with one scale a tensor beside it."""

from __future__ import annotations

import torch
from torch import Tensor

from tilth.kernels.attention_fp8 import attention_fp8, attention_fp8_blocks
from tilth.kernels.attention_fp8.blocks import LARGEST, n_blocks


def with_outliers(*shape: int, generator: torch.Generator) -> Tensor:
    """Draw from N(0, 1) + N(0, 100) * Bernoulli(0.001), in bfloat16. Source: Shah et al. 2024, section 4.3."""
    normal, outlier = (torch.randn(shape, generator=generator) for _ in range(2))
    return (normal + 10.0 * outlier * (torch.rand(shape, generator=generator) < 0.001)).to(torch.bfloat16)


def fp8_errors(q_BTHD: Tensor, k_BTHD: Tensor, v_BTHD: Tensor, *, block_size: int = 128) -> tuple[float, float]:
    """Return the root mean square errors of attention_fp8 and of FP8 with one scale a tensor, causal=False, against float64.

    The latter goes through the same operator, with the same products and the same rounding of the softmax's weights: only
    rotation and blocks are missing. As many heads of k and v as of q.
    """
    squares = torch.zeros(2, dtype=torch.float64)
    whole = [_one_scale(x, block_size) for x in (q_BTHD, k_BTHD, v_BTHD)]
    scales = dict(zip(("q_scales_BNH", "k_scales_BNG", "v_scales_BNG"), (scale for _, scale in whole), strict=True))
    ours = attention_fp8(q_BTHD.float(), k_BTHD.float(), v_BTHD.float(), causal=False, block_size=block_size)
    plain = attention_fp8_blocks(*(x8 for x8, _ in whole), **scales, block_size=block_size, causal=False, dtype=torch.float32)
    assert isinstance(ours, Tensor)  # and no pair, since no log-sum-exp was asked for
    assert isinstance(plain, Tensor)
    for b, h in ((b, h) for b in range(q_BTHD.shape[0]) for h in range(q_BTHD.shape[2])):
        q, k, v = (x[b, :, h].double() for x in (q_BTHD, k_BTHD, v_BTHD))
        truth = torch.softmax(q @ k.T / q.shape[-1] ** 0.5, dim=-1) @ v
        for i, found in enumerate((ours, plain)):
            squares[i] += (found[b, :, h].double() - truth).square().sum()
    of_ours, of_plain = (squares / q_BTHD.numel()).sqrt().tolist()
    return of_ours, of_plain


def _one_scale(x_BTHD: Tensor, block_size: int) -> tuple[Tensor, Tensor]:
    """Quantise with one scale for the whole tensor, repeated for every block."""
    scale = x_BTHD.abs().amax().float() / LARGEST
    shape = (x_BTHD.shape[0], n_blocks(x_BTHD.shape[1], block_size), x_BTHD.shape[2])
    return (x_BTHD.float() / scale).to(torch.float8_e4m3fn), scale.expand(shape)
