"""Rotary embedding in Triton: one pass; the angles of a token are read once for several heads."""

# Triton reads the annotations of a kernel: only tl.constexpr may stand there.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from tilth.kernels.launches import launch

_SMALLEST_BLOCK = 32


def forward(
    x_BTHD: Tensor, cos_TR: Tensor, sin_TR: Tensor, positions_BT: Tensor | None, interleaved: bool, inverse: bool
) -> Tensor:
    """Return the turned tensor (B, T, H, D)."""
    x = x_BTHD if x_BTHD.stride(3) == 1 else x_BTHD.contiguous()
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    if y.numel() == 0:
        return y
    n_batch, n_tokens, n_heads, head_dim = x.shape
    n_positions, n_pairs = cos_TR.shape
    block = max(triton.next_power_of_2(n_pairs), _SMALLEST_BLOCK)
    options = launch("rope", "turn", x, f"R{block}")
    grid = (triton.cdiv(n_batch * n_tokens, options["TOKENS"]), triton.cdiv(n_heads, options["HEADS"]))
    _turn_kernel[grid](
        x, cos_TR.contiguous(), sin_TR.contiguous(), None if positions_BT is None else positions_BT.contiguous(), y,
        -1.0 if inverse else 1.0, n_batch * n_tokens, n_tokens, n_heads, n_positions, *x.stride()[:3],
        N_PAIRS=n_pairs, HEAD_DIM=head_dim, INTERLEAVED=interleaved, BLOCK=block, **options,
    )  # fmt: skip
    return y


def backward(
    dy_BTHD: Tensor, cos_TR: Tensor, sin_TR: Tensor, positions_BT: Tensor | None, interleaved: bool, inverse: bool
) -> Tensor:
    """Return the gradient of x: a rotation's transpose is the rotation back."""
    return forward(dy_BTHD, cos_TR, sin_TR, positions_BT, interleaved, not inverse)


@triton.jit
def _turn_kernel(
    x_ptr, cos_ptr, sin_ptr, positions_ptr, y_ptr, direction, n_rows, n_tokens, n_heads, n_positions,
    stride_b, stride_t, stride_h,
    N_PAIRS: tl.constexpr, HEAD_DIM: tl.constexpr, INTERLEAVED: tl.constexpr, BLOCK: tl.constexpr, TOKENS: tl.constexpr,
    HEADS: tl.constexpr,
):  # fmt: skip
    """A row is one token of one sequence; tiles are (TOKENS, HEADS, channels)."""
    rows = tl.program_id(0).to(tl.int64) * TOKENS + tl.arange(0, TOKENS)
    tokens = rows % n_tokens
    positions = tokens
    if positions_ptr is not None:
        positions = tl.load(positions_ptr + rows, mask=rows < n_rows, other=0).to(tl.int64)
    pairs = tl.arange(0, BLOCK)
    known = (positions >= 0) & (positions < n_positions)
    inside = known[:, None] & (pairs < N_PAIRS)[None, :]
    angles = positions[:, None] * N_PAIRS + pairs[None, :]
    # NaN for a position without angles: a wrong number would be taken for a right one.
    unknown = tl.where(known, 0.0, float("nan"))[:, None]
    cos = (tl.load(cos_ptr + angles, mask=inside, other=0.0).to(tl.float32) + unknown)[:, None, :]
    sin = (tl.load(sin_ptr + angles, mask=inside, other=0.0).to(tl.float32) * direction + unknown)[:, None, :]

    heads = (tl.program_id(1) * HEADS + tl.arange(0, HEADS)).to(tl.int64)
    exists = (rows < n_rows)[:, None, None] & (heads < n_heads)[None, :, None]
    bases = (rows // n_tokens * stride_b + tokens * stride_t)[:, None, None] + (heads * stride_h)[None, :, None]
    y_bases = (rows[:, None] * n_heads + heads[None, :])[:, :, None] * HEAD_DIM
    if INTERLEAVED:
        cols = tl.arange(0, 2 * BLOCK)[None, None, :]
        mask = exists & (cols < 2 * N_PAIRS)
        x = tl.load(x_ptr + bases + cols, mask=mask, other=0.0).to(tl.float32)
        first, second = tl.split(tl.reshape(x, [TOKENS, HEADS, BLOCK, 2]))
        y = tl.reshape(tl.join(first * cos - second * sin, second * cos + first * sin), [TOKENS, HEADS, 2 * BLOCK])
        tl.store(y_ptr + y_bases + cols, y.to(y_ptr.dtype.element_ty), mask=mask)
    else:
        cols = pairs[None, None, :]
        mask = exists & (cols < N_PAIRS)
        first = tl.load(x_ptr + bases + cols, mask=mask, other=0.0).to(tl.float32)
        second = tl.load(x_ptr + bases + N_PAIRS + cols, mask=mask, other=0.0).to(tl.float32)
        tl.store(y_ptr + y_bases + cols, (first * cos - second * sin).to(y_ptr.dtype.element_ty), mask=mask)
        tl.store(y_ptr + y_bases + N_PAIRS + cols, (second * cos + first * sin).to(y_ptr.dtype.element_ty), mask=mask)
    for start in range(2 * N_PAIRS, HEAD_DIM, BLOCK):
        rest = start + pairs[None, None, :]
        has_rest = exists & (rest < HEAD_DIM)
        tl.store(y_ptr + y_bases + rest, tl.load(x_ptr + bases + rest, mask=has_rest), mask=has_rest)
