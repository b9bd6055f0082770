"""Attention in Triton: the online softmax of FlashAttention forward, and a deterministic two-kernel backward.

One program owns a block of queries (forward, dq) or a block of keys and all the heads of its group (dk, dv), so that no
sum needs atomics and every run gives the same bits. Source: Dao 2023, "FlashAttention-2", algorithms 1 and 2.
"""

# Triton reads the annotations of a kernel: only tl.constexpr may stand there.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

_LOG2_E = tl.constexpr(1.4426950408889634)


@dataclass(frozen=True)
class Config:
    """Block sizes of one launch: rows of queries, rows of keys, and what the compiler is told."""

    block_m: int
    block_n: int
    n_warps: int
    n_stages: int


def forward(
    q_BTHD: Tensor, k_BTGD: Tensor, v_BTGD: Tensor, segments_BT: Tensor | None, causal: bool, scale: float
) -> tuple[Tensor, Tensor]:
    """Return (o_BTHD, lse_BHT)."""
    q, k, v = q_BTHD.contiguous(), k_BTGD.contiguous(), v_BTGD.contiguous()
    n_batch, n_queries, n_heads, head_dim = q.shape
    o = torch.empty_like(q)
    lse = torch.empty((n_batch, n_heads, n_queries), dtype=torch.float32, device=q.device)
    if o.numel() == 0:
        return o, lse
    config = forward_config(head_dim, q.dtype)
    grid = (triton.cdiv(n_queries, config.block_m) * n_batch * n_heads,)
    _forward_kernel[grid](
        q, k, v, _ids(segments_BT, q), o, lse, scale, n_queries, k.shape[1], n_heads,
        **_constants(q, k, segments_BT, causal, config),
    )  # fmt: skip
    return o, lse


def backward(
    do_BTHD: Tensor,
    q_BTHD: Tensor,
    k_BTGD: Tensor,
    v_BTGD: Tensor,
    segments_BT: Tensor | None,
    o_BTHD: Tensor,
    lse_BHT: Tensor,
    causal: bool,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of q, k and v."""
    q, k, v = q_BTHD.contiguous(), k_BTGD.contiguous(), v_BTGD.contiguous()
    do, o = do_BTHD.contiguous(), o_BTHD.contiguous()
    n_batch, n_queries, n_heads, head_dim = q.shape
    n_keys, n_groups = k.shape[1:3]
    dq, dk, dv = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
    if q.numel() == 0:
        return dq, dk.zero_(), dv.zero_()
    ids, delta = _ids(segments_BT, q), torch.empty_like(lse_BHT)
    dkv_config, dq_config = backward_configs(head_dim, q.dtype)
    dkv_constants = _constants(q, k, segments_BT, causal, dkv_config)
    dq_constants = _constants(q, k, segments_BT, causal, dq_config)
    dq_grid = (triton.cdiv(n_queries, dq_config.block_m) * n_batch * n_heads,)
    _delta_kernel[dq_grid](o, do, delta, n_queries, n_heads, head_dim, BLOCK_M=dq_config.block_m, BLOCK_D=dq_constants["BLOCK_D"])
    _dkv_kernel[(triton.cdiv(n_keys, dkv_config.block_n) * n_batch * n_groups,)](
        q, k, v, ids, do, lse_BHT, delta, dk, dv, scale, n_queries, n_keys, n_heads, **dkv_constants
    )
    _dq_kernel[dq_grid](q, k, v, ids, do, lse_BHT, delta, dq, scale, n_queries, n_keys, n_heads, **dq_constants)
    return dq, dk, dv


def forward_config(head_dim: int, dtype: torch.dtype) -> Config:
    """Return the launch of the forward kernel; chosen so that sm_90 spills nothing (tests/kernels/test_ahead_of_time.py)."""
    if dtype == torch.float32:
        return Config(64, 32, 4, 2) if head_dim <= 128 else Config(32, 32, 4, 1)
    if head_dim <= 64:
        return Config(128, 64, 4, 3)
    return Config(128, 64, 8, 3) if head_dim <= 128 else Config(64, 32, 4, 2)


def backward_configs(head_dim: int, dtype: torch.dtype) -> tuple[Config, Config]:
    """Return the launches of the kernel for dk and dv and of the kernel for dq."""
    if dtype == torch.float32:
        config = Config(32, 32, 4 if head_dim <= 64 else 8, 1)
        return config, config
    if head_dim <= 64:
        return Config(64, 64, 4, 2), Config(64, 64, 4, 2)
    return (Config(32, 64, 8, 2), Config(64, 64, 8, 2)) if head_dim <= 128 else (Config(32, 32, 8, 1), Config(32, 32, 8, 1))


@triton.jit
def _seen(rows, cols, row_ids, col_ids, n_keys, CAUSAL: tl.constexpr, HAS_SEGMENTS: tl.constexpr):
    """Whether each query (by its position among the keys) sees each key; the two broadcast against each other."""
    seen = cols < n_keys
    if CAUSAL:
        seen = seen & (cols <= rows)
    if HAS_SEGMENTS:
        seen = seen & (row_ids == col_ids)
    return seen


@triton.jit
def _accumulate(
    acc, row_sum, row_max, q, k_base, v_base, ids_base, row_ids, rows, first, last, scale_log2, n_keys, stride_t,
    HEAD_DIM: tl.constexpr, CAUSAL: tl.constexpr, HAS_SEGMENTS: tl.constexpr, MASKED: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Add the key blocks [first, last) to the online softmax; MASKED=False where every pair is known to be seen."""
    d = tl.arange(0, BLOCK_D)
    for start in range(first, last, BLOCK_N):
        cols = start + tl.arange(0, BLOCK_N)
        offsets = cols.to(tl.int64)[:, None] * stride_t + d[None, :]
        inside = (cols < n_keys)[:, None] & (d < HEAD_DIM)[None, :]
        k = tl.load(k_base + offsets, mask=inside, other=0.0)
        s = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale_log2
        if MASKED:
            col_ids = cols
            if HAS_SEGMENTS:
                col_ids = tl.load(ids_base + cols, mask=cols < n_keys, other=0)
            seen = _seen(rows[:, None], cols[None, :], row_ids[:, None], col_ids[None, :], n_keys, CAUSAL, HAS_SEGMENTS)
            s = tl.where(seen, s, float("-inf"))
        new_max = tl.maximum(row_max, tl.max(s, axis=1))
        # A row that has seen nothing yet has maximum -inf, and -inf - -inf would be NaN.
        finite_max = tl.where(new_max == float("-inf"), 0.0, new_max)
        p = tl.exp2(s - finite_max[:, None])
        shrink = tl.exp2(row_max - finite_max)
        row_sum = row_sum * shrink + tl.sum(p, axis=1)
        v = tl.load(v_base + offsets, mask=inside, other=0.0)
        acc = acc * shrink[:, None] + tl.dot(p.to(v.dtype), v, input_precision=PRECISION)
        row_max = new_max
    return acc, row_sum, row_max


@triton.jit
def _forward_kernel(
    q_ptr, k_ptr, v_ptr, ids_ptr, o_ptr, lse_ptr, scale, n_queries, n_keys, n_heads,
    HEADS_PER_GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, CAUSAL: tl.constexpr, HAS_SEGMENTS: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    n_blocks = tl.cdiv(n_queries, BLOCK_M)
    bh = (tl.program_id(0) // n_blocks).to(tl.int64)
    # The last blocks of a causal row have the most keys: they start first.
    start_m = (n_blocks - 1 - tl.program_id(0) % n_blocks) * BLOCK_M
    b, h = bh // n_heads, bh % n_heads
    n_groups = n_heads // HEADS_PER_GROUP
    m = start_m + tl.arange(0, BLOCK_M)
    d = tl.arange(0, BLOCK_D)
    q_offsets = ((b * n_queries + m)[:, None] * n_heads + h) * HEAD_DIM + d[None, :]
    inside = (m < n_queries)[:, None] & (d < HEAD_DIM)[None, :]
    q = tl.load(q_ptr + q_offsets, mask=inside, other=0.0)
    shift = n_keys - n_queries
    rows = m + shift
    row_ids = rows
    if HAS_SEGMENTS:
        row_ids = tl.load(ids_ptr + b * n_keys + rows, mask=m < n_queries, other=-1)
    kv_base = (b * n_keys * n_groups + h // HEADS_PER_GROUP) * HEAD_DIM
    stride_t = n_groups * HEAD_DIM

    last = n_keys
    unmasked = n_keys // BLOCK_N * BLOCK_N
    if CAUSAL:
        last = tl.minimum(n_keys, start_m + BLOCK_M + shift)
        unmasked = tl.minimum(n_keys, start_m + shift + 1) // BLOCK_N * BLOCK_N
    if HAS_SEGMENTS:
        unmasked = 0
    acc = tl.zeros([BLOCK_M, BLOCK_D], dtype=tl.float32)
    row_sum = tl.zeros([BLOCK_M], dtype=tl.float32)
    row_max = tl.full([BLOCK_M], float("-inf"), dtype=tl.float32)
    scale_log2 = scale * _LOG2_E
    if not HAS_SEGMENTS:
        acc, row_sum, row_max = _accumulate(
            acc, row_sum, row_max, q, k_ptr + kv_base, v_ptr + kv_base, ids_ptr + b * n_keys, row_ids, rows,
            0, unmasked, scale_log2, n_keys, stride_t,
            HEAD_DIM, CAUSAL, HAS_SEGMENTS, False, BLOCK_N, BLOCK_D, PRECISION,
        )  # fmt: skip
    acc, row_sum, row_max = _accumulate(
        acc, row_sum, row_max, q, k_ptr + kv_base, v_ptr + kv_base, ids_ptr + b * n_keys, row_ids, rows,
        unmasked, last, scale_log2, n_keys, stride_t,
        HEAD_DIM, CAUSAL, HAS_SEGMENTS, True, BLOCK_N, BLOCK_D, PRECISION,
    )  # fmt: skip
    # Rows past the end of the queries saw nothing; they are not stored.
    row_sum = tl.where(m < n_queries, row_sum, 1.0)
    tl.store(o_ptr + q_offsets, (acc / row_sum[:, None]).to(o_ptr.dtype.element_ty), mask=inside)
    lse = (row_max + tl.log2(row_sum)) / _LOG2_E
    tl.store(lse_ptr + bh * n_queries + m, lse, mask=m < n_queries)


@triton.jit
def _delta_kernel(o_ptr, do_ptr, delta_ptr, n_queries, n_heads, head_dim, BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr):
    """delta = sum over D of o * do, which is what the softmax subtracts from every gradient of its row."""
    n_blocks = tl.cdiv(n_queries, BLOCK_M)
    bh = (tl.program_id(0) // n_blocks).to(tl.int64)
    m = tl.program_id(0) % n_blocks * BLOCK_M + tl.arange(0, BLOCK_M)
    d = tl.arange(0, BLOCK_D)
    offsets = ((bh // n_heads * n_queries + m)[:, None] * n_heads + bh % n_heads) * head_dim + d[None, :]
    inside = (m < n_queries)[:, None] & (d < head_dim)[None, :]
    o = tl.load(o_ptr + offsets, mask=inside, other=0.0).to(tl.float32)
    do = tl.load(do_ptr + offsets, mask=inside, other=0.0).to(tl.float32)
    tl.store(delta_ptr + bh * n_queries + m, tl.sum(o * do, axis=1), mask=m < n_queries)


@triton.jit
def _dkv_kernel(
    q_ptr, k_ptr, v_ptr, ids_ptr, do_ptr, lse_ptr, delta_ptr, dk_ptr, dv_ptr, scale, n_queries, n_keys, n_heads,
    HEADS_PER_GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, CAUSAL: tl.constexpr, HAS_SEGMENTS: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    n_blocks = tl.cdiv(n_keys, BLOCK_N)
    bg = (tl.program_id(0) // n_blocks).to(tl.int64)
    start_n = tl.program_id(0) % n_blocks * BLOCK_N
    n_groups = n_heads // HEADS_PER_GROUP
    b, g = bg // n_groups, bg % n_groups
    cols = start_n + tl.arange(0, BLOCK_N)
    d = tl.arange(0, BLOCK_D)
    kv_offsets = ((b * n_keys + cols)[:, None] * n_groups + g) * HEAD_DIM + d[None, :]
    kv_inside = (cols < n_keys)[:, None] & (d < HEAD_DIM)[None, :]
    k = tl.load(k_ptr + kv_offsets, mask=kv_inside, other=0.0)
    v = tl.load(v_ptr + kv_offsets, mask=kv_inside, other=0.0)
    col_ids = cols
    if HAS_SEGMENTS:
        col_ids = tl.load(ids_ptr + b * n_keys + cols, mask=cols < n_keys, other=0)
    shift = n_keys - n_queries
    first_m = 0
    if CAUSAL:
        first_m = tl.maximum(start_n - shift, 0) // BLOCK_M * BLOCK_M
    dk = tl.zeros([BLOCK_N, BLOCK_D], dtype=tl.float32)
    dv = tl.zeros([BLOCK_N, BLOCK_D], dtype=tl.float32)
    for r in range(HEADS_PER_GROUP):
        h = g * HEADS_PER_GROUP + r
        stats = (b * n_heads + h) * n_queries
        for start_m in range(first_m, n_queries, BLOCK_M):
            m = start_m + tl.arange(0, BLOCK_M)
            q_offsets = ((b * n_queries + m)[:, None] * n_heads + h) * HEAD_DIM + d[None, :]
            inside = (m < n_queries)[:, None] & (d < HEAD_DIM)[None, :]
            q = tl.load(q_ptr + q_offsets, mask=inside, other=0.0)
            do = tl.load(do_ptr + q_offsets, mask=inside, other=0.0)
            lse = tl.load(lse_ptr + stats + m, mask=m < n_queries, other=0.0)
            delta = tl.load(delta_ptr + stats + m, mask=m < n_queries, other=0.0)
            row_ids = m
            if HAS_SEGMENTS:
                row_ids = tl.load(ids_ptr + b * n_keys + m + shift, mask=m < n_queries, other=-1)
            s_NM = tl.dot(k, tl.trans(q), input_precision=PRECISION)
            seen = _seen((m + shift)[None, :], cols[:, None], row_ids[None, :], col_ids[:, None], n_keys, CAUSAL, HAS_SEGMENTS)
            seen = seen & (m < n_queries)[None, :]
            # Masked before exp2: what is not seen may have a score far above the row's log-sum-exp.
            p_NM = tl.exp2(tl.where(seen, (s_NM * scale - lse[None, :]) * _LOG2_E, float("-inf")))
            dv += tl.dot(p_NM.to(do.dtype), do, input_precision=PRECISION)
            dp_NM = tl.dot(v, tl.trans(do), input_precision=PRECISION)
            ds_NM = p_NM * (dp_NM - delta[None, :])
            dk += tl.dot(ds_NM.to(q.dtype), q, input_precision=PRECISION)
    tl.store(dk_ptr + kv_offsets, (dk * scale).to(dk_ptr.dtype.element_ty), mask=kv_inside)
    tl.store(dv_ptr + kv_offsets, dv.to(dv_ptr.dtype.element_ty), mask=kv_inside)


@triton.jit
def _dq_kernel(
    q_ptr, k_ptr, v_ptr, ids_ptr, do_ptr, lse_ptr, delta_ptr, dq_ptr, scale, n_queries, n_keys, n_heads,
    HEADS_PER_GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, CAUSAL: tl.constexpr, HAS_SEGMENTS: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    n_blocks = tl.cdiv(n_queries, BLOCK_M)
    bh = (tl.program_id(0) // n_blocks).to(tl.int64)
    start_m = (n_blocks - 1 - tl.program_id(0) % n_blocks) * BLOCK_M
    b, h = bh // n_heads, bh % n_heads
    n_groups = n_heads // HEADS_PER_GROUP
    m = start_m + tl.arange(0, BLOCK_M)
    d = tl.arange(0, BLOCK_D)
    q_offsets = ((b * n_queries + m)[:, None] * n_heads + h) * HEAD_DIM + d[None, :]
    inside = (m < n_queries)[:, None] & (d < HEAD_DIM)[None, :]
    q = tl.load(q_ptr + q_offsets, mask=inside, other=0.0)
    do = tl.load(do_ptr + q_offsets, mask=inside, other=0.0)
    lse = tl.load(lse_ptr + bh * n_queries + m, mask=m < n_queries, other=0.0)
    delta = tl.load(delta_ptr + bh * n_queries + m, mask=m < n_queries, other=0.0)
    shift = n_keys - n_queries
    row_ids = m
    if HAS_SEGMENTS:
        row_ids = tl.load(ids_ptr + b * n_keys + m + shift, mask=m < n_queries, other=-1)
    last = n_keys
    if CAUSAL:
        last = tl.minimum(n_keys, start_m + BLOCK_M + shift)
    kv_base = (b * n_keys * n_groups + h // HEADS_PER_GROUP) * HEAD_DIM
    dq = tl.zeros([BLOCK_M, BLOCK_D], dtype=tl.float32)
    for start_n in range(0, last, BLOCK_N):
        cols = start_n + tl.arange(0, BLOCK_N)
        offsets = kv_base + cols.to(tl.int64)[:, None] * (n_groups * HEAD_DIM) + d[None, :]
        kv_inside = (cols < n_keys)[:, None] & (d < HEAD_DIM)[None, :]
        k = tl.load(k_ptr + offsets, mask=kv_inside, other=0.0)
        v = tl.load(v_ptr + offsets, mask=kv_inside, other=0.0)
        col_ids = cols
        if HAS_SEGMENTS:
            col_ids = tl.load(ids_ptr + b * n_keys + cols, mask=cols < n_keys, other=0)
        s = tl.dot(q, tl.trans(k), input_precision=PRECISION)
        seen = _seen((m + shift)[:, None], cols[None, :], row_ids[:, None], col_ids[None, :], n_keys, CAUSAL, HAS_SEGMENTS)
        p = tl.exp2(tl.where(seen, (s * scale - lse[:, None]) * _LOG2_E, float("-inf")))
        dp = tl.dot(do, tl.trans(v), input_precision=PRECISION)
        ds = p * (dp - delta[:, None])
        dq += tl.dot(ds.to(k.dtype), k, input_precision=PRECISION)
    tl.store(dq_ptr + q_offsets, (dq * scale).to(dq_ptr.dtype.element_ty), mask=inside)


def _constants(q: Tensor, k: Tensor, segments_BT: Tensor | None, causal: bool, config: Config) -> dict[str, int | bool | str]:
    return {
        "HEADS_PER_GROUP": q.shape[2] // k.shape[2],
        "HEAD_DIM": q.shape[3],
        "CAUSAL": causal,
        "HAS_SEGMENTS": segments_BT is not None,
        "BLOCK_M": config.block_m,
        "BLOCK_N": config.block_n,
        "BLOCK_D": max(16, triton.next_power_of_2(q.shape[3])),
        # Plain tf32 would keep 10 bits of a float32 input; three products keep nearly all.
        "PRECISION": "tf32x3" if q.dtype == torch.float32 else "tf32",
        "num_warps": config.n_warps,
        "num_stages": config.n_stages,
    }


def _ids(segments_BT: Tensor | None, like: Tensor) -> Tensor:
    """Return the segment ids, or any valid pointer where there are none: the kernel then never reads it."""
    return like if segments_BT is None else segments_BT.contiguous()
