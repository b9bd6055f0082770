"""Attention in Triton: the online softmax of FlashAttention forward, and a deterministic two-kernel backward.

One program owns a block of queries (forward, dq) or a block of keys and all the heads of its group (dk, dv), so that no
sum needs atomics and every run gives the same bits. Every mask is an interval of keys for each query (visible.py): a
program walks the blocks of its own interval only, in three stretches - partly visible, wholly visible and without any
arithmetic of masks, partly visible. Where only the places of queries and keys count, the bounds are arithmetic; windows
and documents are read from tensors. Source: Dao 2023, "FlashAttention-2", algorithms 1 and 2.
"""

# Triton reads the annotations of a kernel: only tl.constexpr may stand there.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from tilth.kernels.attention.visible import Mask, Visible
from tilth.kernels.launches import launch, precision

_LOG2_E = tl.constexpr(1.4426950408889634)


def forward(q_BTHD: Tensor, k_BTGD: Tensor, v_BTGD: Tensor, mask: Mask, softcap: float, scale: float) -> tuple[Tensor, Tensor]:
    """Return (o_BTHD, lse_BHT)."""
    q, k, v = _rows(q_BTHD), _rows(k_BTGD), _rows(v_BTGD)
    n_batch, n_queries, n_heads, _ = q.shape
    o = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    lse = torch.empty((n_batch, n_heads, n_queries), dtype=torch.float32, device=q.device)
    if o.numel() == 0 or k.numel() == 0:
        return o.zero_(), lse.fill_(float("-inf"))
    n_keys = k.shape[1]
    first, last, bounds_stride, shift = _key_bounds(mask, q, n_keys)
    options = _launch("forward", q, k, v)
    _forward_kernel[(triton.cdiv(n_queries, options["BLOCK_M"]) * n_batch * n_heads,)](
        q, *_sources(options, "BLOCK_N", k, v), first, last, o, lse, _inner_factor(softcap, scale),
        _outer_factor(softcap, scale, q.dtype),
        n_queries, n_keys, n_heads, bounds_stride, shift, *_strides(q, k, v),
        **_constants(q, k, mask, softcap), **options,
    )  # fmt: skip
    return o, lse


def backward(
    do_BTHD: Tensor,
    dlse_BHT: Tensor | None,
    q_BTHD: Tensor,
    k_BTGD: Tensor,
    v_BTGD: Tensor,
    o_BTHD: Tensor,
    lse_BHT: Tensor,
    mask: Mask,
    softcap: float,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of q, k and v."""
    q, k, v, do, o = _rows(q_BTHD), _rows(k_BTGD), _rows(v_BTGD), do_BTHD.contiguous(), o_BTHD.contiguous()
    n_batch, n_queries, n_heads, _ = q.shape
    n_keys, n_groups = k.shape[1:3]
    dq, dk, dv = (torch.empty(t.shape, dtype=t.dtype, device=t.device) for t in (q, k, v))
    if q.numel() == 0 or k.numel() == 0:
        return dq.zero_(), dk.zero_(), dv.zero_()
    row_exponent, delta = _prepare_rows(do, dlse_BHT, o, lse_BHT)
    constants = _constants(q, k, mask, softcap)
    numbers = (_inner_factor(softcap, scale), _outer_factor(softcap, scale, q.dtype), scale, n_queries, n_keys, n_heads)
    strides = _strides(q, k, v, do)

    *key_bounds, shift = _key_bounds(mask, q, n_keys)
    options = _launch("dq", q, k, v)
    _dq_kernel[(triton.cdiv(n_queries, options["BLOCK_M"]) * n_batch * n_heads,)](
        q,
        *_sources(options, "BLOCK_N", k, v),
        do,
        row_exponent,
        delta,
        dq,
        *numbers,
        *key_bounds,
        shift,
        *strides,
        **constants,
        **options,
    )
    *query_bounds, shift = _query_bounds(mask, q, n_keys)
    options = _launch("dkv", q, q, do)
    if softcap:
        options["num_stages"] = 1  # tanh needs the registers that reading ahead takes
    _dkv_kernel[(triton.cdiv(n_keys, options["BLOCK_N"]) * n_batch * n_groups,)](
        *_sources(options, "BLOCK_M", q, do),
        k,
        v,
        row_exponent,
        delta,
        dk,
        dv,
        *numbers,
        *query_bounds,
        shift,
        *strides,
        **constants,
        **options,
    )
    return dq, dk, dv


@triton.jit
def _ends(first_ptr, last_ptr, start, n_own, BLOCK: tl.constexpr):
    """The lowest bound of a block, where what all its rows see starts and ends, its highest bound: off its first and last row."""
    end = tl.minimum(start + BLOCK, n_own) - 1
    return tl.load(first_ptr + start), tl.load(first_ptr + end), tl.load(last_ptr + start), tl.load(last_ptr + end)


@triton.jit
def _whole_blocks(lowest, all_from, all_to, BLOCK: tl.constexpr):
    """Where those blocks start and end, of blocks cut from `lowest` on, that every row sees wholly."""
    whole = lowest + tl.cdiv(all_from - lowest, BLOCK) * BLOCK
    return whole, tl.maximum(whole, lowest + tl.maximum(all_to + 1 - lowest, 0) // BLOCK * BLOCK)


@triton.jit
def _exp(x, IS_NATURAL: tl.constexpr):
    """exp(x), or 2 to the x where the caller has multiplied by log2(e) already, in a product that it needs anyway.

    float32 does not: the product would round exponents of any size, and the difference of two is small where it counts.
    """
    if IS_NATURAL:
        x = x * _LOG2_E
    return tl.exp2(x)


@triton.jit
def _tanh(x, IS_EXACT: tl.constexpr):
    """tanh; exact to an ulp or two also near 0 where `IS_EXACT`, else to one of 1.0."""
    size = tl.abs(x)
    shrunk = tl.exp2(size * (-2 * _LOG2_E))
    y = (1 - shrunk) / (1 + shrunk)
    if IS_EXACT:
        # Continued fraction of tanh (Lambert), whose error below 0.6 is under 1e-9, as x less something smaller.
        u = x * x
        near = size - size * u * (3465 + u * (189 + u)) / (10395 + u * (4725 + u * (210 + u)))
        y = tl.where(size < 0.6, near, y)
    return tl.where(x < 0, -y, y)


@triton.jit
def _load(
    source, strides, b, start, h, n_rows,
    MASKED: tl.constexpr, TMA: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Rows from `start` of a head, zeros past `n_rows` where MASKED; `source` is a descriptor where TMA, else a pointer."""
    if TMA:
        x = source.load([b, start, h, 0]).reshape([BLOCK, BLOCK_D])
    else:
        i, d = tl.arange(0, BLOCK)[:, None], tl.arange(0, BLOCK_D)[None, :]
        pointers = source + tl.cast(b, tl.int64) * strides[0] + tl.cast(start, tl.int64) * strides[1] + h * strides[2]
        pointers += i * strides[1] + d
        if MASKED:
            x = tl.load(pointers, mask=(start + i < n_rows) & (d < HEAD_DIM), other=0.0)
        elif HEAD_DIM < BLOCK_D:
            x = tl.load(pointers, mask=d < HEAD_DIM, other=0.0)
        else:
            x = tl.load(pointers)
    return x


@triton.jit
def _store(base, b, start, h, n_rows, n_heads, x, HEAD_DIM: tl.constexpr, BLOCK: tl.constexpr, BLOCK_D: tl.constexpr):
    i, d = tl.arange(0, BLOCK)[:, None], tl.arange(0, BLOCK_D)[None, :]
    row = (tl.cast(b, tl.int64) * n_rows + start) * n_heads + h
    pointers = base + row * HEAD_DIM + (i * (n_heads * HEAD_DIM) + d)
    tl.store(pointers, x.to(base.dtype.element_ty), mask=(start + i < n_rows) & (d < HEAD_DIM))


@triton.jit
def _attend(
    acc, row_sum, row_max, q, k, v, k_strides, v_strides, b, g, first, last, begin, end, hole, hole_size, inner, outer, n_keys,
    MASKED: tl.constexpr, TMA: tl.constexpr, HAS_BOUNDS: tl.constexpr, HAS_SOFTCAP: tl.constexpr, HEAD_DIM: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Add the key blocks [begin, end) to the online softmax; MASKED=False where every row sees every key of them."""
    for at in range(begin, end, BLOCK_N):
        start = at
        if MASKED:
            start = tl.where(at < hole, at, at + hole_size)
        k_ND = _load(k, k_strides, b, start, g, n_keys, MASKED, TMA, HEAD_DIM, BLOCK_N, BLOCK_D)
        s = tl.dot(q, tl.trans(k_ND), input_precision=PRECISION)
        if HAS_SOFTCAP:
            s = _tanh(s * inner, q.dtype == tl.float32)
        if MASKED:
            cols = start + tl.arange(0, BLOCK_N)
            seen = cols[None, :] <= last[:, None]
            if HAS_BOUNDS:
                seen = seen & (cols[None, :] >= first[:, None])
            s = tl.where(seen, s, float("-inf"))
        new_max = tl.maximum(row_max, tl.max(s, axis=1) * outer)
        finite_max = new_max
        if MASKED:
            # A row that has seen nothing yet has maximum -inf, and -inf - -inf would be NaN.
            finite_max = tl.where(new_max == float("-inf"), 0.0, new_max)
        p = _exp(s * outer - finite_max[:, None], q.dtype == tl.float32)
        shrink = _exp(row_max - finite_max, q.dtype == tl.float32)
        row_sum = row_sum * shrink + tl.sum(p, axis=1)
        v_ND = _load(v, v_strides, b, start, g, n_keys, MASKED, TMA, HEAD_DIM, BLOCK_N, BLOCK_D)
        acc = tl.dot(p.to(v_ND.dtype), v_ND, acc * shrink[:, None], input_precision=PRECISION)
        row_max = new_max
    return acc, row_sum, row_max


@triton.jit(do_not_specialize=["n_queries", "n_keys", "bounds_stride", "shift"])
def _forward_kernel(
    q_ptr, k_ptr, v_ptr, first_ptr, last_ptr, o_ptr, lse_ptr, inner, outer,
    n_queries, n_keys, n_heads, bounds_stride, shift, q_strides, k_strides, v_strides,
    TMA: tl.constexpr, HEADS_PER_GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, HAS_BOUNDS: tl.constexpr, HAS_SOFTCAP: tl.constexpr,
    BLOCK_D: tl.constexpr, PRECISION: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    n_blocks = tl.cdiv(n_queries, BLOCK_M)
    bh = tl.program_id(0) // n_blocks
    # The last blocks of a causal row have the most keys: they start first.
    start_m = (n_blocks - 1 - tl.program_id(0) % n_blocks) * BLOCK_M
    b, h = bh // n_heads, bh % n_heads
    g = h // HEADS_PER_GROUP
    rows = tl.cast(bh, tl.int64) * n_queries
    m = start_m + tl.arange(0, BLOCK_M)
    q = _load(q_ptr, q_strides, b, start_m, h, n_queries, True, False, HEAD_DIM, BLOCK_M, BLOCK_D)
    acc = tl.zeros([BLOCK_M, BLOCK_D], dtype=tl.float32)
    row_sum = tl.zeros([BLOCK_M], dtype=tl.float32)
    row_max = tl.full([BLOCK_M], float("-inf"), dtype=tl.float32)
    if HAS_BOUNDS:
        first_ptr += b * bounds_stride
        last_ptr += b * bounds_stride
        first = tl.load(first_ptr + m, mask=m < n_queries, other=0)
        last = tl.load(last_ptr + m, mask=m < n_queries, other=-1)
        lowest, all_from, all_to, highest = _ends(first_ptr, last_ptr, start_m, n_queries, BLOCK_M)
        whole, whole_end = _whole_blocks(lowest, all_from, all_to, BLOCK_N)
    else:
        first = m
        last = tl.minimum(m + shift, n_keys - 1)
        lowest, whole = 0, 0
        whole_end = tl.maximum(tl.minimum(start_m + shift + 1, n_keys), 0) // BLOCK_N * BLOCK_N
        highest = tl.minimum(start_m + BLOCK_M + shift, n_keys) - 1
    hole_size = whole_end - whole
    acc, row_sum, row_max = _attend(
        acc, row_sum, row_max, q, k_ptr, v_ptr, k_strides, v_strides, b, g, first, last, whole, whole_end, 0,
        0, inner, outer, n_keys,
        False, TMA, HAS_BOUNDS, HAS_SOFTCAP, HEAD_DIM, BLOCK_N, BLOCK_D, PRECISION,
    )  # fmt: skip
    acc, row_sum, row_max = _attend(
        acc, row_sum, row_max, q, k_ptr, v_ptr, k_strides, v_strides, b, g, first, last, lowest,
        highest + 1 - hole_size, whole, hole_size, inner, outer, n_keys,
        True, TMA, HAS_BOUNDS, HAS_SOFTCAP, HEAD_DIM, BLOCK_N, BLOCK_D, PRECISION,
    )  # fmt: skip
    # A row that saw nothing: 0 / 1, and a log-sum-exp of -inf from its maximum.
    row_sum = tl.where(row_max == float("-inf"), 1.0, row_sum)
    _store(o_ptr, b, start_m, h, n_queries, n_heads, acc / row_sum[:, None], HEAD_DIM, BLOCK_M, BLOCK_D)
    if q.dtype == tl.float32:
        lse = row_max + tl.log2(row_sum) / _LOG2_E
    else:
        lse = (row_max + tl.log2(row_sum)) / _LOG2_E
    tl.store(lse_ptr + rows + m, lse, mask=m < n_queries)


@triton.jit
def _rows_kernel(
    o_ptr, do_ptr, lse_ptr, dlse_ptr, exponent_ptr, delta_ptr, n_queries, n_heads, head_dim,
    HAS_DLSE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """What the backward needs of each row: its log-sum-exp in the unit of _exp, and delta, which is taken off its gradients.

    delta = sum over D of o * do, less the gradient of the log-sum-exp.
    """
    n_blocks = tl.cdiv(n_queries, BLOCK_M)
    bh = (tl.program_id(0) // n_blocks).to(tl.int64)
    m = tl.program_id(0) % n_blocks * BLOCK_M + tl.arange(0, BLOCK_M)
    d = tl.arange(0, BLOCK_D)
    offsets = ((bh // n_heads * n_queries + m)[:, None] * n_heads + bh % n_heads) * head_dim + d[None, :]
    inside = (m < n_queries)[:, None] & (d < head_dim)[None, :]
    # It is subtracted from what nearly equals it: for float32 the sum is exact to float32 only if taken in more.
    wide = tl.float64 if o_ptr.dtype.element_ty == tl.float32 else tl.float32
    o = tl.load(o_ptr + offsets, mask=inside, other=0.0).to(wide)
    do = tl.load(do_ptr + offsets, mask=inside, other=0.0).to(wide)
    delta = tl.sum(o * do, axis=1).to(tl.float32)
    row = bh * n_queries + m
    if HAS_DLSE:
        delta -= tl.load(dlse_ptr + row, mask=m < n_queries, other=0.0)
    lse = tl.load(lse_ptr + row, mask=m < n_queries, other=0.0)
    lse = tl.where(lse == float("-inf"), 0.0, lse)  # of a row that sees nothing: no block lets it through
    if o_ptr.dtype.element_ty != tl.float32:
        lse = lse * _LOG2_E
    tl.store(exponent_ptr + row, lse, mask=m < n_queries)
    tl.store(delta_ptr + row, delta, mask=m < n_queries)


@triton.jit
def _dq_blocks(
    dq, q, do, lse, delta, k, v, k_strides, v_strides, b, g, first, last, begin, end, hole, hole_size, inner, outer, n_keys,
    MASKED: tl.constexpr, TMA: tl.constexpr, HAS_BOUNDS: tl.constexpr, HAS_SOFTCAP: tl.constexpr, HEAD_DIM: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Add what the key blocks [begin, end) give to the gradient of the queries."""
    for at in range(begin, end, BLOCK_N):
        start = at
        if MASKED:
            start = tl.where(at < hole, at, at + hole_size)
        k_ND = _load(k, k_strides, b, start, g, n_keys, MASKED, TMA, HEAD_DIM, BLOCK_N, BLOCK_D)
        s = tl.dot(q, tl.trans(k_ND), input_precision=PRECISION)
        if HAS_SOFTCAP:
            s = _tanh(s * inner, q.dtype == tl.float32)
        exponent = s * outer - lse[:, None]
        if MASKED:
            cols = start + tl.arange(0, BLOCK_N)
            seen = cols[None, :] <= last[:, None]
            if HAS_BOUNDS:
                seen = seen & (cols[None, :] >= first[:, None])
            # Masked before exp2: what is not seen may have a score far above the row's log-sum-exp.
            exponent = tl.where(seen, exponent, float("-inf"))
        p = _exp(exponent, q.dtype == tl.float32)
        if HAS_SOFTCAP:
            p = p * (1 - s * s)
        v_ND = _load(v, v_strides, b, start, g, n_keys, MASKED, TMA, HEAD_DIM, BLOCK_N, BLOCK_D)
        dp = tl.dot(do, tl.trans(v_ND), input_precision=PRECISION)
        ds = p * (dp - delta[:, None])
        dq = tl.dot(ds.to(k_ND.dtype), k_ND, dq, input_precision=PRECISION)
    return dq


@triton.jit(do_not_specialize=["n_queries", "n_keys", "bounds_stride", "shift"])
def _dq_kernel(
    q_ptr, k_ptr, v_ptr, do_ptr, lse_ptr, delta_ptr, dq_ptr, inner, outer, scale, n_queries, n_keys, n_heads,
    first_ptr, last_ptr, bounds_stride, shift, q_strides, k_strides, v_strides, do_strides,
    TMA: tl.constexpr, HEADS_PER_GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, HAS_BOUNDS: tl.constexpr, HAS_SOFTCAP: tl.constexpr,
    BLOCK_D: tl.constexpr, PRECISION: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    n_blocks = tl.cdiv(n_queries, BLOCK_M)
    bh = tl.program_id(0) // n_blocks
    start_m = (n_blocks - 1 - tl.program_id(0) % n_blocks) * BLOCK_M
    b, h = bh // n_heads, bh % n_heads
    g = h // HEADS_PER_GROUP
    rows = tl.cast(bh, tl.int64) * n_queries
    m = start_m + tl.arange(0, BLOCK_M)
    q = _load(q_ptr, q_strides, b, start_m, h, n_queries, True, False, HEAD_DIM, BLOCK_M, BLOCK_D)
    do = _load(do_ptr, do_strides, b, start_m, h, n_queries, True, False, HEAD_DIM, BLOCK_M, BLOCK_D)
    lse = tl.load(lse_ptr + rows + m, mask=m < n_queries, other=0.0)
    delta = tl.load(delta_ptr + rows + m, mask=m < n_queries, other=0.0)
    dq = tl.zeros([BLOCK_M, BLOCK_D], dtype=tl.float32)
    if HAS_BOUNDS:
        first_ptr += b * bounds_stride
        last_ptr += b * bounds_stride
        first = tl.load(first_ptr + m, mask=m < n_queries, other=0)
        last = tl.load(last_ptr + m, mask=m < n_queries, other=-1)
        lowest, all_from, all_to, highest = _ends(first_ptr, last_ptr, start_m, n_queries, BLOCK_M)
        whole, whole_end = _whole_blocks(lowest, all_from, all_to, BLOCK_N)
    else:
        first = m
        last = tl.minimum(m + shift, n_keys - 1)
        lowest, whole = 0, 0
        whole_end = tl.maximum(tl.minimum(start_m + shift + 1, n_keys), 0) // BLOCK_N * BLOCK_N
        highest = tl.minimum(start_m + BLOCK_M + shift, n_keys) - 1
    hole_size = whole_end - whole
    dq = _dq_blocks(
        dq, q, do, lse, delta, k_ptr, v_ptr, k_strides, v_strides, b, g, first, last, whole, whole_end, 0, 0,
        inner, outer, n_keys,
        False, TMA, HAS_BOUNDS, HAS_SOFTCAP, HEAD_DIM, BLOCK_N, BLOCK_D, PRECISION,
    )  # fmt: skip
    dq = _dq_blocks(
        dq, q, do, lse, delta, k_ptr, v_ptr, k_strides, v_strides, b, g, first, last, lowest,
        highest + 1 - hole_size, whole, hole_size, inner, outer, n_keys,
        True, TMA, HAS_BOUNDS, HAS_SOFTCAP, HEAD_DIM, BLOCK_N, BLOCK_D, PRECISION,
    )  # fmt: skip
    _store(dq_ptr, b, start_m, h, n_queries, n_heads, dq * scale, HEAD_DIM, BLOCK_M, BLOCK_D)


@triton.jit
def _dkv_blocks(
    dk, dv, k, v, q, do, q_strides, do_strides, b, h, lse_base, delta_base, first, last, begin, end, hole,
    hole_size, inner, outer, n_queries,
    MASKED: tl.constexpr, TMA: tl.constexpr, HAS_SOFTCAP: tl.constexpr, HEAD_DIM: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Add what the query blocks [begin, end) give to the gradients of the keys and values."""
    for at in range(begin, end, BLOCK_M):
        start = at
        if MASKED:
            start = tl.where(at < hole, at, at + hole_size)
        m = start + tl.arange(0, BLOCK_M)
        q_MD = _load(q, q_strides, b, start, h, n_queries, MASKED, TMA, HEAD_DIM, BLOCK_M, BLOCK_D)
        s_NM = tl.dot(k, tl.trans(q_MD), input_precision=PRECISION)
        if HAS_SOFTCAP:
            s_NM = _tanh(s_NM * inner, q_MD.dtype == tl.float32)
        lse = tl.load(lse_base + m, mask=m < n_queries, other=0.0) if MASKED else tl.load(lse_base + m)
        exponent = s_NM * outer - lse[None, :]
        if MASKED:
            i = m[None, :]
            seen = (i >= first[:, None]) & (i <= last[:, None])
            exponent = tl.where(seen, exponent, float("-inf"))
        p_NM = _exp(exponent, q_MD.dtype == tl.float32)
        do_MD = _load(do, do_strides, b, start, h, n_queries, MASKED, TMA, HEAD_DIM, BLOCK_M, BLOCK_D)
        dv = tl.dot(p_NM.to(do_MD.dtype), do_MD, dv, input_precision=PRECISION)
        if HAS_SOFTCAP:
            p_NM = p_NM * (1 - s_NM * s_NM)
        dp_NM = tl.dot(v, tl.trans(do_MD), input_precision=PRECISION)
        delta = tl.load(delta_base + m, mask=m < n_queries, other=0.0) if MASKED else tl.load(delta_base + m)
        ds_NM = p_NM * (dp_NM - delta[None, :])
        dk = tl.dot(ds_NM.to(q_MD.dtype), q_MD, dk, input_precision=PRECISION)
    return dk, dv


@triton.jit(do_not_specialize=["n_queries", "n_keys", "bounds_stride", "shift"])
def _dkv_kernel(
    q_ptr, do_ptr, k_ptr, v_ptr, lse_ptr, delta_ptr, dk_ptr, dv_ptr, inner, outer, scale, n_queries, n_keys, n_heads,
    first_ptr, last_ptr, bounds_stride, shift, q_strides, k_strides, v_strides, do_strides,
    TMA: tl.constexpr, HEADS_PER_GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, HAS_BOUNDS: tl.constexpr, HAS_SOFTCAP: tl.constexpr,
    BLOCK_D: tl.constexpr, PRECISION: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    n_blocks = tl.cdiv(n_keys, BLOCK_N)
    bg = tl.program_id(0) // n_blocks
    start_n = tl.program_id(0) % n_blocks * BLOCK_N
    n_groups = n_heads // HEADS_PER_GROUP
    b, g = bg // n_groups, bg % n_groups
    cols = start_n + tl.arange(0, BLOCK_N)
    k = _load(k_ptr, k_strides, b, start_n, g, n_keys, True, False, HEAD_DIM, BLOCK_N, BLOCK_D)
    v = _load(v_ptr, v_strides, b, start_n, g, n_keys, True, False, HEAD_DIM, BLOCK_N, BLOCK_D)
    if HAS_BOUNDS:
        first_ptr += b * bounds_stride
        last_ptr += b * bounds_stride
        first = tl.load(first_ptr + cols, mask=cols < n_keys, other=0)
        last = tl.load(last_ptr + cols, mask=cols < n_keys, other=-1)
        lowest, all_from, all_to, highest = _ends(first_ptr, last_ptr, start_n, n_keys, BLOCK_N)
    else:
        first = tl.maximum(cols - shift, 0)
        last = tl.where(cols < n_keys, n_queries - 1, -1)
        lowest = tl.maximum(start_n - shift, 0)
        all_from = tl.maximum(tl.minimum(start_n + BLOCK_N, n_keys) - 1 - shift, 0)
        all_to = n_queries - 1
        highest = n_queries - 1
    whole, whole_end = _whole_blocks(lowest, all_from, all_to, BLOCK_M)
    hole_size = whole_end - whole
    dk = tl.zeros([BLOCK_N, BLOCK_D], dtype=tl.float32)
    dv = tl.zeros([BLOCK_N, BLOCK_D], dtype=tl.float32)
    for r in range(HEADS_PER_GROUP):
        h = g * HEADS_PER_GROUP + r
        rows = tl.cast(b * n_heads + h, tl.int64) * n_queries
        dk, dv = _dkv_blocks(
            dk, dv, k, v, q_ptr, do_ptr, q_strides, do_strides, b, h, lse_ptr + rows, delta_ptr + rows,
            first, last, whole, whole_end,
            0, 0, inner, outer, n_queries, False, TMA, HAS_SOFTCAP, HEAD_DIM, BLOCK_M, BLOCK_D, PRECISION,
        )  # fmt: skip
        dk, dv = _dkv_blocks(
            dk, dv, k, v, q_ptr, do_ptr, q_strides, do_strides, b, h, lse_ptr + rows, delta_ptr + rows,
            first, last, lowest, highest + 1 - hole_size,
            whole, hole_size, inner, outer, n_queries, True, TMA, HAS_SOFTCAP, HEAD_DIM, BLOCK_M, BLOCK_D, PRECISION,
        )  # fmt: skip
    _store(dk_ptr, b, start_n, g, n_keys, n_groups, dk * scale, HEAD_DIM, BLOCK_N, BLOCK_D)
    _store(dv_ptr, b, start_n, g, n_keys, n_groups, dv, HEAD_DIM, BLOCK_N, BLOCK_D)


def _prepare_rows(do: Tensor, dlse_BHT: Tensor | None, o: Tensor, lse_BHT: Tensor) -> tuple[Tensor, Tensor]:
    """Return the log-sum-exp in the unit of _exp, and delta, both (B, H, Tq)."""
    n_batch, n_queries, n_heads, head_dim = o.shape
    row_exponent, delta = torch.empty_like(lse_BHT), torch.empty_like(lse_BHT)
    block_m = 16 if head_dim > 128 else 32
    _rows_kernel[(triton.cdiv(n_queries, block_m) * n_batch * n_heads,)](
        o, do, lse_BHT, lse_BHT if dlse_BHT is None else dlse_BHT.contiguous(), row_exponent, delta, n_queries, n_heads, head_dim,
        HAS_DLSE=dlse_BHT is not None, BLOCK_M=block_m, BLOCK_D=triton.next_power_of_2(head_dim), num_warps=4,
    )  # fmt: skip
    return row_exponent, delta


def _launch(kernel: str, q: Tensor, *read_in_loop: Tensor) -> dict[str, int]:
    """Return the options of a kernel; without descriptors where the tensors that its loop reads do not lie as TMA needs."""
    options = launch("attention", kernel, q, f"D{_block_d(q.shape[3])}")
    options["TMA"] = int(options["TMA"] and all(_is_aligned(tensor) for tensor in read_in_loop))
    return options


def _is_aligned(tensor: Tensor) -> bool:
    n_bytes = tensor.element_size()
    return tensor.data_ptr() % 16 == 0 and all(stride > 0 and stride * n_bytes % 16 == 0 for stride in tensor.stride()[:3])


def _sources(options: dict[str, int], rows: str, *tensors: Tensor) -> list[Any]:
    """Return what the loop of a kernel reads tensors through: themselves, or descriptors of blocks of options[rows] rows."""
    if not options["TMA"]:
        return list(tensors)
    return [TensorDescriptor.from_tensor(t, [1, options[rows], 1, _block_d(t.shape[3])]) for t in tensors]


def _strides(*tensors: Tensor) -> tuple[tuple[int, ...], ...]:
    return tuple(tensor.stride()[:3] for tensor in tensors)


def _rows(tensor_BTHD: Tensor) -> Tensor:
    """Return the tensor with the channels of a head side by side; its other dimensions may lie anywhere."""
    return tensor_BTHD if tensor_BTHD.stride(-1) == 1 else tensor_BTHD.contiguous()


def _needs_bounds(mask: Mask) -> bool:
    """Whether the interval of a query is more than a matter of its place."""
    return mask.has_documents or mask.left >= 0


def _key_bounds(mask: Mask, q: Tensor, n_keys: int) -> tuple[Tensor, Tensor, int, int]:
    """Return the bounds of each query, their stride from row to row, and how far the arithmetic ones lie ahead of it."""
    n_queries = q.shape[1]
    if not _needs_bounds(mask):
        # Any valid pointers: the kernels then never read them.
        return q, q, 0, n_keys if mask.right < 0 else n_keys - n_queries + mask.right
    visible = Visible.under(mask, n_queries, n_keys, q.device)
    return visible.first_key_BT, visible.last_key_BT, _stride(visible.first_key_BT), 0


def _query_bounds(mask: Mask, q: Tensor, n_keys: int) -> tuple[Tensor, Tensor, int, int]:
    """Return the same for the queries that see each key."""
    if not _needs_bounds(mask):
        return _key_bounds(mask, q, n_keys)
    visible = Visible.under(mask, q.shape[1], n_keys, q.device)
    return visible.first_query_BS, visible.last_query_BS, _stride(visible.first_query_BS), 0


def _stride(bounds_BT: Tensor) -> int:
    return bounds_BT.shape[1] if bounds_BT.shape[0] > 1 else 0


def _constants(q: Tensor, k: Tensor, mask: Mask, softcap: float) -> dict[str, Any]:
    head_dim = q.shape[3]
    return {
        "HEADS_PER_GROUP": q.shape[2] // k.shape[2],
        "HEAD_DIM": head_dim,
        "HAS_BOUNDS": _needs_bounds(mask),
        "HAS_SOFTCAP": softcap > 0,
        "BLOCK_D": _block_d(head_dim),
        "PRECISION": precision(q.dtype),
    }


def _block_d(head_dim: int) -> int:
    return max(16, triton.next_power_of_2(head_dim))


def _inner_factor(softcap: float, scale: float) -> float:
    """What scores are multiplied with before tanh."""
    return scale / softcap if softcap else 1.0


def _outer_factor(softcap: float, scale: float, dtype: torch.dtype) -> float:
    """What scores are multiplied with after it, for _exp."""
    return (softcap or scale) * (1.0 if dtype == torch.float32 else _LOG2_E.value)
