"""Attention of e4m3 blocks in Triton, and the rotation and rounding that make the blocks, in one pass.

One program owns a block of queries of a head. Both products are FP8; the scales of a block of queries and of a block of
keys multiply the scores, that of a block of values what the block adds to the output. Each product begins from 0 and is
added in float32: the tensor cores' own sums of FP8 products keep fewer bits. For wgmma the values must lie with the
tokens side by side, which is how `quantize_blocks` writes them.

Triton's interpreter multiplies FP8 wrongly and rounds to it wrongly. There, and only there, UPCAST makes the kernels
round in float32 and multiply in float16, which holds every e4m3 value.
Source: Shah et al. 2024, "FlashAttention-3", section 3.3.
"""

# Triton reads the annotations of a kernel: only tl.constexpr may stand there.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from tilth.errors import BackendError
from tilth.kernels.attention_fp8.blocks import LARGEST, SMALLEST_SIZE, WEIGHT_SCALE, n_blocks, rotation
from tilth.kernels.backend import gpu_arch
from tilth.kernels.launches import launch, precision

OLDEST_GPU = 90
_LARGEST = tl.constexpr(LARGEST)
_SMALLEST_SIZE = tl.constexpr(SMALLEST_SIZE)
_LOG2_WEIGHT_SCALE = tl.constexpr(math.log2(WEIGHT_SCALE))
_LN_2 = tl.constexpr(math.log(2.0))
_NO_LIMIT = 2**30
_INTERPRETED = triton.knobs.runtime.interpret


def quantize(x_BTHD: Tensor, x8_BTHD: Tensor, block_size: int, hadamard: bool, signs_D: Tensor | None) -> Tensor:
    """Write x8_BTHD and return the scales (B, N, H)."""
    _check_gpu(x_BTHD)
    n_batch, n_tokens, n_heads, head_dim = x_BTHD.shape
    scales_shape = (n_batch, n_blocks(n_tokens, block_size), n_heads)
    scales_BNH = torch.empty(scales_shape, dtype=torch.float32, device=x_BTHD.device)
    if scales_BNH.numel() == 0:
        return scales_BNH
    x = x_BTHD if x_BTHD.stride(3) == 1 else x_BTHD.contiguous()
    turn = rotation(head_dim, signs_D, x.device, x.dtype) if hadamard else x
    options = launch("attention_fp8", "quantize", x, f"D{head_dim}")
    _quantize_kernel[(scales_BNH.numel(),)](
        x, turn, x8_BTHD, scales_BNH, *x.stride()[:3], *x8_BTHD.stride(), n_tokens, scales_shape[1], n_heads,
        HADAMARD=hadamard, HEAD_DIM=head_dim, BLOCK_T=block_size, BLOCK_K=min(64, head_dim),
        PRECISION=precision(x.dtype), UPCAST=_INTERPRETED, **options,
    )  # fmt: skip
    return scales_BNH


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
    _check_gpu(q8_BTHD)
    n_batch, n_queries, n_heads, head_dim = q8_BTHD.shape
    n_keys, n_groups = k8_BTGD.shape[1:3]
    o = torch.empty(q8_BTHD.shape, dtype=dtype, device=q8_BTHD.device)
    lse = torch.empty((n_batch, n_heads, n_queries), dtype=torch.float32, device=q8_BTHD.device)
    if o.numel() == 0 or n_keys == 0:
        return o.zero_(), lse.fill_(float("-inf"))
    q8, k8 = (x8 if x8.stride(3) == 1 else x8.contiguous() for x8 in (q8_BTHD, k8_BTGD))
    v8 = v8_BTGD if v8_BTGD.stride(1) == 1 else _with_tokens_last(v8_BTGD)
    options = launch("attention_fp8", "forward", q8, f"D{head_dim}")
    options["BLOCK_N"] = min(options["BLOCK_N"], block_size)
    is_windowed = left >= 0
    left, right = (min(limit, _NO_LIMIT) if limit >= 0 else _NO_LIMIT for limit in (left, right))
    grid = (triton.cdiv(n_queries, options["BLOCK_M"]) * n_batch * n_heads,)
    _forward_kernel[grid](
        q8, k8, v8, q_scales_BNH.contiguous(), k_scales_BNG.contiguous(), v_scales_BNG.contiguous(), o, lse,
        *q8.stride()[:3], *k8.stride()[:3], v8.stride(0), v8.stride(2), v8.stride(3),
        scale / math.log(2.0), left, right, n_queries, n_keys, n_heads, n_groups, block_size,
        HEAD_DIM=head_dim, WINDOWED=is_windowed, UPCAST=_INTERPRETED, **options,
    )  # fmt: skip
    return o, lse


def _check_gpu(tensor: Tensor) -> None:
    arch = gpu_arch(tensor.device)
    if arch < OLDEST_GPU and not _INTERPRETED:
        raise BackendError(
            f"attention_fp8 multiplies FP8 by wgmma, and the GPU has compute capability {arch / 10:.1f}; it needs 9.0 or later.",
            where=f"a tensor on {tensor.device}",
            fix="Use `attention` in bfloat16.",
        )


def _with_tokens_last(x8_BTHD: Tensor) -> Tensor:
    n_batch, n_tokens, n_heads, head_dim = x8_BTHD.shape
    lying = x8_BTHD.new_empty((n_batch, n_heads, head_dim, triton.cdiv(n_tokens, 16) * 16))
    return lying[..., :n_tokens].permute(0, 3, 1, 2).copy_(x8_BTHD)


@triton.jit
def _round_to_e4m3(x):
    """Round float32 of size at most 448 to the values of e4m3, ties to even; for the interpreter, which has no such cast."""
    bits = x.to(tl.int32, bitcast=True)
    kept_3_bits = ((bits + 0x7FFFF + ((bits >> 20) & 1)) & -0x100000).to(tl.float32, bitcast=True)
    below_normal = (x + 24576.0) - 24576.0  # 1.5 * 2**14: float32 there steps by 2**-9, as e4m3 does below 2**-6
    return tl.where(tl.abs(x) < 0.015625, below_normal, kept_3_bits)


@triton.jit
def _quantize_kernel(
    x_ptr, rotation_ptr, x8_ptr, scales_ptr, stride_x_b, stride_x_t, stride_x_h,
    stride_8_b, stride_8_t, stride_8_h, stride_8_d, n_tokens, n_blocks, n_heads,
    HADAMARD: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """One block of one head; programs follow the layout of the scales (B, N, H)."""
    h = (tl.program_id(0) % n_heads).to(tl.int64)
    bn = tl.program_id(0) // n_heads
    b, n = (bn // n_blocks).to(tl.int64), bn % n_blocks
    t = n * BLOCK_T + tl.arange(0, BLOCK_T)
    d = tl.arange(0, HEAD_DIM)
    inside = (t < n_tokens)[:, None]
    rows = x_ptr + b * stride_x_b + h * stride_x_h + t.to(tl.int64)[:, None] * stride_x_t
    if HADAMARD:
        # +1 and -1 are exact in every type: the product is as exact as the float32 sum.
        y = tl.zeros([BLOCK_T, HEAD_DIM], dtype=tl.float32)
        for start in tl.static_range(0, HEAD_DIM, BLOCK_K):
            k = start + tl.arange(0, BLOCK_K)
            x = tl.load(rows + k[None, :], mask=inside, other=0.0)
            turn = tl.load(rotation_ptr + k[:, None] * HEAD_DIM + d[None, :])
            y = tl.dot(x, turn, y, input_precision=PRECISION)
        y = y * (1.0 / HEAD_DIM**0.5)
    else:
        y = tl.load(rows + d[None, :], mask=inside, other=0.0).to(tl.float32)
    size = tl.maximum(tl.max(tl.abs(y)), _SMALLEST_SIZE)
    y = y * (_LARGEST / size)
    if UPCAST:
        y = _round_to_e4m3(y)
    x8 = x8_ptr + b * stride_8_b + h * stride_8_h
    tl.store(x8 + t.to(tl.int64)[:, None] * stride_8_t + d[None, :] * stride_8_d, y.to(tl.float8e4nv), mask=inside)
    tl.store(scales_ptr + tl.program_id(0), size / _LARGEST)


@triton.jit
def _accumulate(
    acc, row_sum, row_max, q, k_base, v_base, k_scales, v_scales, row_scale, first_keys, end_keys, start, end,
    n_keys, n_groups, block_size, stride_k_t, stride_v_d,
    MASKED: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_N: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """Add the key blocks from `start` to `end` to the online softmax; MASKED=False where every query sees all of them."""
    d = tl.arange(0, HEAD_DIM)
    for start_n in range(start, end, BLOCK_N):
        cols = start_n + tl.arange(0, BLOCK_N)
        block = start_n // block_size * n_groups
        k_ptrs = k_base + cols.to(tl.int64)[:, None] * stride_k_t + d[None, :]
        v_ptrs = v_base + d[:, None] * stride_v_d + cols[None, :]
        if MASKED:
            k = tl.load(k_ptrs, mask=(cols < n_keys)[:, None], other=0.0)
            v = tl.load(v_ptrs, mask=(cols < n_keys)[None, :], other=0.0)
        else:
            k = tl.load(k_ptrs)
            v = tl.load(v_ptrs)
        if UPCAST:
            k = k.to(tl.float16)
            v = v.to(tl.float16)
        s = tl.dot(q, tl.trans(k))
        factor = row_scale * tl.load(k_scales + block)
        if MASKED:
            seen = (cols[None, :] >= first_keys[:, None]) & (cols[None, :] < end_keys[:, None])
            s = tl.where(seen, s, float("-inf"))
            # -inf times a factor that underflowed to 0 would be NaN.
            factor = tl.maximum(factor, 1e-37)
        new_max = tl.maximum(row_max, tl.max(s, axis=1) * factor)
        finite_max = new_max
        if MASKED:  # a row that has seen nothing yet has maximum -inf, and -inf - -inf would be NaN
            finite_max = tl.where(new_max == float("-inf"), 0.0, new_max)
        p = tl.exp2(s * factor[:, None] - (finite_max - _LOG2_WEIGHT_SCALE)[:, None])
        shrink = tl.exp2(row_max - finite_max)
        row_sum = row_sum * shrink + tl.sum(p, axis=1)
        if UPCAST:
            p8 = _round_to_e4m3(p).to(tl.float16)
        else:
            p8 = p.to(tl.float8e4nv)
        acc = acc * shrink[:, None] + tl.dot(p8, tl.trans(v)) * tl.load(v_scales + block)
        row_max = new_max
    return acc, row_sum, row_max


@triton.jit(do_not_specialize=["left", "right"])
def _forward_kernel(
    q_ptr, k_ptr, v_ptr, q_scales_ptr, k_scales_ptr, v_scales_ptr, o_ptr, lse_ptr,
    stride_q_b, stride_q_t, stride_q_h, stride_k_b, stride_k_t, stride_k_g, stride_v_b, stride_v_g, stride_v_d,
    scale_log2, left, right, n_queries, n_keys, n_heads, n_groups, block_size,
    HEAD_DIM: tl.constexpr, WINDOWED: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    n_query_blocks = tl.cdiv(n_queries, BLOCK_M)
    bh = (tl.program_id(0) // n_query_blocks).to(tl.int64)
    # The last blocks of a causal row have the most keys: they start first.
    start_m = (n_query_blocks - 1 - tl.program_id(0) % n_query_blocks) * BLOCK_M
    b, h = bh // n_heads, bh % n_heads
    g = h // (n_heads // n_groups)
    m = start_m + tl.arange(0, BLOCK_M)
    d = tl.arange(0, HEAD_DIM)
    inside = m < n_queries
    q_ptrs = q_ptr + b * stride_q_b + h * stride_q_h + m.to(tl.int64)[:, None] * stride_q_t + d[None, :]
    q = tl.load(q_ptrs, mask=inside[:, None], other=0.0)
    if UPCAST:
        q = q.to(tl.float16)
    n_q_scales, n_k_scales = tl.cdiv(n_queries, block_size), tl.cdiv(n_keys, block_size)
    q_scales = q_scales_ptr + (b * n_q_scales + m // block_size) * n_heads + h
    row_scale = tl.load(q_scales, mask=inside, other=0.0) * scale_log2
    k_scales = k_scales_ptr + b * n_k_scales * n_groups + g
    v_scales = v_scales_ptr + b * n_k_scales * n_groups + g
    k_base = k_ptr + b * stride_k_b + g * stride_k_g
    v_base = v_ptr + b * stride_v_b + g * stride_v_g

    # Keys that each query sees, that any query of the block sees, and whole blocks that all of them see.
    place = m + (n_keys - n_queries)
    first_keys = tl.maximum(place - left, 0)
    end_keys = tl.minimum(place + right + 1, n_keys)
    first_place = start_m + (n_keys - n_queries)
    last_place = tl.minimum(start_m + BLOCK_M, n_queries) - 1 + (n_keys - n_queries)
    start = tl.maximum(first_place - left, 0) // BLOCK_N * BLOCK_N
    end = tl.minimum(last_place + right + 1, n_keys)
    whole_start = tl.cdiv(tl.maximum(last_place - left, 0), BLOCK_N) * BLOCK_N
    whole_end = tl.maximum(tl.minimum(first_place + right + 1, n_keys), 0) // BLOCK_N * BLOCK_N
    acc = tl.zeros([BLOCK_M, HEAD_DIM], dtype=tl.float32)
    row_sum = tl.zeros([BLOCK_M], dtype=tl.float32)
    row_max = tl.full([BLOCK_M], float("-inf"), dtype=tl.float32)
    if WINDOWED:
        whole_start = tl.minimum(whole_start, tl.maximum(end, start))
        acc, row_sum, row_max = _accumulate(
            acc, row_sum, row_max, q, k_base, v_base, k_scales, v_scales, row_scale, first_keys, end_keys,
            start, whole_start, n_keys, n_groups, block_size, stride_k_t, stride_v_d, True, HEAD_DIM, BLOCK_N, UPCAST,
        )  # fmt: skip
        start = whole_start
    whole_end = tl.maximum(whole_end, start)
    acc, row_sum, row_max = _accumulate(
        acc, row_sum, row_max, q, k_base, v_base, k_scales, v_scales, row_scale, first_keys, end_keys,
        start, whole_end, n_keys, n_groups, block_size, stride_k_t, stride_v_d, False, HEAD_DIM, BLOCK_N, UPCAST,
    )  # fmt: skip
    acc, row_sum, row_max = _accumulate(
        acc, row_sum, row_max, q, k_base, v_base, k_scales, v_scales, row_scale, first_keys, end_keys,
        whole_end, end, n_keys, n_groups, block_size, stride_k_t, stride_v_d, True, HEAD_DIM, BLOCK_N, UPCAST,
    )  # fmt: skip
    row_sum = tl.where(row_sum == 0.0, 1.0, row_sum)  # a query that sees no key gives 0, and -inf
    o_ptrs = o_ptr + ((b * n_queries + m)[:, None] * n_heads + h) * HEAD_DIM + d[None, :]
    tl.store(o_ptrs, (acc / row_sum[:, None]).to(o_ptr.dtype.element_ty), mask=inside[:, None])
    lse = (row_max + tl.log2(row_sum) - _LOG2_WEIGHT_SCALE) * _LN_2
    tl.store(lse_ptr + bh * n_queries + m, lse, mask=inside)
