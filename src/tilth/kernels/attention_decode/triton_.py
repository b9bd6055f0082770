"""Decoding in Triton: every run of keys of every row by a program of its own, then the runs of a row put together.

A program holds the queries of all heads of one group as the rows of one tile, so that they share the keys it loads. The
first kernel writes for each run its largest score and, relative to it, the sum of the exponentials and of the values
that they weigh; the second adds these up. Runs begin at multiples of a fixed number of keys, and are added in their
order: what else is in the batch, and how wide the table is, changes no bit.
Source: Dao et al. 2023, "Flash-Decoding for long-context inference".
"""

# Triton reads the annotations of a kernel: only tl.constexpr may stand there.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from tilth.kernels.attention_decode.pages import Pages
from tilth.kernels.launches import launch, precision

_LOG2_E = tl.constexpr(1.0 / math.log(2.0))
_NO_LIMIT = 2**30


def forward(
    q_BTHD: Tensor, pages: Pages, left: int, right: int, softcap: float, scale: float, n_splits: int
) -> tuple[Tensor, Tensor]:
    """Return (o_BTHD, lse_BHT); `n_splits` 0 for runs of the number of keys in the table of launches."""
    q, lengths = q_BTHD.contiguous(), pages.lengths_B.contiguous()
    n_batch, n_tokens, n_heads, head_dim = q.shape
    n_groups = pages.k_pages.shape[2]
    heads_per_group = n_heads // n_groups
    n_rows = n_tokens * heads_per_group
    o, lse = torch.empty_like(q), torch.empty((n_batch, n_heads, n_tokens), dtype=torch.float32, device=q.device)
    if n_batch == 0 or pages.capacity == 0:
        return o.zero_(), lse.fill_(float("-inf"))
    block_d = max(16, triton.next_power_of_2(head_dim))
    options = launch("attention_decode", "partial", q, f"D{max(block_d, 64)} M{16 if n_rows <= 16 else 64}")
    split = options.pop("SPLIT")
    if n_splits:
        per_split = triton.cdiv(pages.capacity, n_splits)
        split = triton.cdiv(per_split, options["BLOCK_N"]) * options["BLOCK_N"]
    n_splits = triton.cdiv(pages.capacity, split)
    shape = (n_batch, n_groups, n_splits, n_rows)
    o_parts = torch.empty((*shape, head_dim), dtype=torch.float32, device=q.device)
    max_parts, sum_parts = torch.empty((2, *shape), dtype=torch.float32, device=q.device)
    left, right = (min(limit, _NO_LIMIT) if limit >= 0 else _NO_LIMIT for limit in (left, right))
    # Scores are kept in powers of 2: what a product is multiplied with, before the tanh of the softcap and after it.
    scales = (scale / softcap, softcap / math.log(2.0)) if softcap > 0 else (scale / math.log(2.0), 1.0)
    sizes = {"HEADS_PER_GROUP": heads_per_group, "HEAD_DIM": head_dim, "BLOCK_D": block_d}
    n_blocks = triton.cdiv(n_rows, options["BLOCK_M"])
    _partial_kernel[(n_batch * n_groups * n_blocks * n_splits,)](
        q, pages.k_pages, pages.v_pages, pages.block_table_BP, lengths, o_parts, max_parts, sum_parts,
        *pages.k_pages.stride()[:3], *pages.v_pages.stride()[:3], *pages.block_table_BP.stride(),
        *scales, left, right, n_tokens, n_groups, split, n_splits,
        PAGE_SIZE=pages.page_size, HAS_SOFTCAP=softcap > 0, PRECISION=precision(q.dtype), **sizes, **options,
    )  # fmt: skip
    _combine_kernel[(n_batch * n_tokens * n_heads,)](
        o_parts, max_parts, sum_parts, lengths, o, lse, left, right, n_tokens, n_groups, split, n_splits,
        **sizes, **launch("attention_decode", "combine", q, f"D{max(block_d, 64)}"),
    )  # fmt: skip
    return o, lse


def write(k_BTGD: Tensor, v_BTGD: Tensor, pages: Pages) -> None:
    """Put the newest tokens of every row into their slots."""
    k, v = k_BTGD.contiguous(), v_BTGD.contiguous()
    n_batch, n_tokens, n_groups, head_dim = k.shape
    if k.numel() == 0 or pages.capacity == 0:
        return
    _write_kernel[(n_batch * n_tokens,)](
        k, v, pages.k_pages, pages.v_pages, pages.block_table_BP, pages.lengths_B.contiguous(),
        *pages.k_pages.stride()[:3], *pages.v_pages.stride()[:3], *pages.block_table_BP.stride(), n_tokens, n_groups,
        PAGE_SIZE=pages.page_size, HEAD_DIM=head_dim, BLOCK_D=triton.next_power_of_2(head_dim),
        **launch("attention_decode", "write", k, "any"),
    )  # fmt: skip


@triton.jit
def _tanh(x):
    """tanh to nearly the last bit: a quotient of exponentials, and near 0, where that would cancel, the series."""
    size = tl.minimum(tl.abs(x), 10.0)  # beyond which it is 1
    square = size * size
    near = size * (1 + square * (-0.333333333 + square * (0.133333333 + square * (-0.053968254 + square * 0.021869489))))
    shrunk = tl.exp2(size * _LOG2_E * -2.0)
    tanh = tl.where(size < 0.25, near, (1 - shrunk) / (1 + shrunk))
    return tl.where(x < 0, -tanh, tanh)


@triton.jit
def _seen_keys(place, length, left, right):
    """Return the first key that a query at `place` sees, and the end of those that it sees."""
    return tl.maximum(place - left, 0), tl.minimum(place + right + 1, length)


@triton.jit(do_not_specialize=["left", "right", "n_tokens", "split", "n_splits", "stride_table_b", "stride_table_p"])
def _partial_kernel(
    q_ptr, k_ptr, v_ptr, table_ptr, lengths_ptr, o_parts_ptr, max_parts_ptr, sum_parts_ptr,
    stride_k_page, stride_k_slot, stride_k_group, stride_v_page, stride_v_slot, stride_v_group,
    stride_table_b, stride_table_p,
    scale, softcap_log2, left, right, n_tokens, n_groups, split, n_splits,
    HEADS_PER_GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr, PAGE_SIZE: tl.constexpr,
    HAS_SOFTCAP: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The softmax of one run of keys for a block of the rows (token, head of the group) of one row of the batch."""
    n_rows = n_tokens * HEADS_PER_GROUP
    n_blocks = tl.cdiv(n_rows, BLOCK_M)
    this_split = tl.program_id(0) % n_splits
    block = tl.program_id(0) // n_splits % n_blocks
    bg = (tl.program_id(0) // n_splits // n_blocks).to(tl.int64)
    b, g = bg // n_groups, bg % n_groups
    length = tl.load(lengths_ptr + b)
    r = block * BLOCK_M + tl.arange(0, BLOCK_M)
    d = tl.arange(0, BLOCK_D)
    # What the rows of this block see between them, cut to this run.
    first_token = block * BLOCK_M // HEADS_PER_GROUP
    last_token = tl.minimum((block * BLOCK_M + BLOCK_M - 1) // HEADS_PER_GROUP, n_tokens - 1)
    lowest, _ = _seen_keys(length - n_tokens + first_token, length, left, right)
    _, highest = _seen_keys(length - n_tokens + last_token, length, left, right)
    begin = tl.maximum(this_split * split, lowest // BLOCK_N * BLOCK_N)
    end = tl.minimum(this_split * split + split, highest)
    if begin < end:
        token = r // HEADS_PER_GROUP
        h = g * HEADS_PER_GROUP + r % HEADS_PER_GROUP
        q_offsets = ((b * n_tokens + token) * n_groups * HEADS_PER_GROUP + h)[:, None] * HEAD_DIM + d[None, :]
        inside = (r < n_rows)[:, None] & (d < HEAD_DIM)[None, :]
        q = tl.load(q_ptr + q_offsets, mask=inside, other=0.0)
        first, stop = _seen_keys(length - n_tokens + token, length, left, right)
        table_row_ptr = table_ptr + b * stride_table_b
        k_base = k_ptr + g * stride_k_group + d[None, :]
        v_base = v_ptr + g * stride_v_group + d[None, :]
        acc = tl.zeros([BLOCK_M, BLOCK_D], dtype=tl.float32)
        row_sum = tl.zeros([BLOCK_M], dtype=tl.float32)
        row_max = tl.full([BLOCK_M], float("-inf"), dtype=tl.float32)
        for start in range(begin, end, BLOCK_N):
            cols = start + tl.arange(0, BLOCK_N)
            used = (cols >= lowest) & (cols < end)
            if PAGE_SIZE % BLOCK_N == 0:  # the block lies in one page
                page = tl.load(table_row_ptr + start // PAGE_SIZE * stride_table_p).to(tl.int64)
            else:
                pages = tl.load(table_row_ptr + cols // PAGE_SIZE * stride_table_p, mask=used, other=0).to(tl.int64)
                page = pages[:, None]
            slot = (cols % PAGE_SIZE).to(tl.int64)[:, None]
            loaded = used[:, None] & (d < HEAD_DIM)[None, :]
            k = tl.load(k_base + (page * stride_k_page + slot * stride_k_slot), mask=loaded, other=0.0)
            s = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale
            if HAS_SOFTCAP:
                s = softcap_log2 * _tanh(s)
            seen = (cols[None, :] >= first[:, None]) & (cols[None, :] < tl.minimum(stop, end)[:, None])
            s = tl.where(seen, s, float("-inf"))
            new_max = tl.maximum(row_max, tl.max(s, axis=1))
            # A row that has seen nothing yet has maximum -inf, and -inf - -inf would be NaN.
            finite_max = tl.where(new_max == float("-inf"), 0.0, new_max)
            p = tl.exp2(s - finite_max[:, None])
            shrink = tl.exp2(row_max - finite_max)
            row_sum = row_sum * shrink + tl.sum(p, axis=1)
            v = tl.load(v_base + (page * stride_v_page + slot * stride_v_slot), mask=loaded, other=0.0)
            acc = acc * shrink[:, None] + tl.dot(p.to(v.dtype), v, input_precision=PRECISION)
            row_max = new_max
        part = (bg * n_splits + this_split) * n_rows + r
        tl.store(o_parts_ptr + part[:, None] * HEAD_DIM + d[None, :], acc, mask=inside)
        tl.store(max_parts_ptr + part, row_max, mask=r < n_rows)
        tl.store(sum_parts_ptr + part, row_sum, mask=r < n_rows)


@triton.jit(do_not_specialize=["left", "right", "n_tokens", "split", "n_splits"])
def _combine_kernel(
    o_parts_ptr, max_parts_ptr, sum_parts_ptr, lengths_ptr, o_ptr, lse_ptr,
    left, right, n_tokens, n_groups, split, n_splits,
    HEADS_PER_GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """Add up the runs of one query of one head, in their order. Runs of which it sees no key are not read: none wrote them."""
    n_heads = n_groups * HEADS_PER_GROUP
    bt = (tl.program_id(0) // n_heads).to(tl.int64)
    b, token, h = bt // n_tokens, bt % n_tokens, tl.program_id(0) % n_heads
    length = tl.load(lengths_ptr + b)
    first, stop = _seen_keys((length - n_tokens + token).to(tl.int32), length, left, right)
    first_split = first // split
    end_split = tl.cdiv(tl.maximum(stop, 0), split)
    d = tl.arange(0, BLOCK_D)
    acc = tl.zeros([BLOCK_D], dtype=tl.float32)
    total, largest = tl.full([], 0.0, dtype=tl.float32), tl.full([], float("-inf"), dtype=tl.float32)
    rows = n_tokens * HEADS_PER_GROUP
    row = token * HEADS_PER_GROUP + h % HEADS_PER_GROUP
    parts = (b * n_groups + h // HEADS_PER_GROUP) * n_splits * rows + row
    for start in range(first_split, end_split, BLOCK_S):
        s = start + tl.arange(0, BLOCK_S)
        part = parts + s * rows
        run_max = tl.load(max_parts_ptr + part, mask=s < end_split, other=float("-inf"))
        run_sum = tl.load(sum_parts_ptr + part, mask=s < end_split, other=0.0)
        loaded = (s < end_split)[:, None] & (d < HEAD_DIM)[None, :]
        o = tl.load(o_parts_ptr + part[:, None] * HEAD_DIM + d[None, :], mask=loaded, other=0.0)
        new_largest = tl.maximum(largest, tl.max(run_max, axis=0))
        weight = tl.exp2(run_max - new_largest)
        shrink = tl.exp2(largest - new_largest)
        total = total * shrink + tl.sum(weight * run_sum, axis=0)
        acc = acc * shrink + tl.sum(weight[:, None] * o, axis=0)
        largest = new_largest
    total = tl.where(first < stop, total, 1.0)  # a query that sees no key: 0 and -inf
    tl.store(o_ptr + (bt * n_heads + h) * HEAD_DIM + d, (acc / total).to(o_ptr.dtype.element_ty), mask=d < HEAD_DIM)
    tl.store(lse_ptr + (b * n_heads + h) * n_tokens + token, largest / _LOG2_E + tl.log(total))


@triton.jit(do_not_specialize=["n_tokens", "stride_table_b", "stride_table_p"])
def _write_kernel(
    k_ptr, v_ptr, k_pages_ptr, v_pages_ptr, table_ptr, lengths_ptr,
    stride_k_page, stride_k_slot, stride_k_group, stride_v_page, stride_v_slot, stride_v_group,
    stride_table_b, stride_table_p, n_tokens, n_groups,
    PAGE_SIZE: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_G: tl.constexpr,
):  # fmt: skip
    """Copy one token of one row, some groups at a time."""
    bt = tl.program_id(0).to(tl.int64)
    b = bt // n_tokens
    place = tl.load(lengths_ptr + b) - n_tokens + (bt % n_tokens).to(tl.int32)
    if place >= 0:
        page = tl.load(table_ptr + b * stride_table_b + place // PAGE_SIZE * stride_table_p).to(tl.int64)
        slot = place % PAGE_SIZE
        d = tl.arange(0, BLOCK_D)
        for start in range(0, n_groups, BLOCK_G):
            g = start + tl.arange(0, BLOCK_G)
            inside = (g < n_groups)[:, None] & (d < HEAD_DIM)[None, :]
            offsets = (bt * n_groups + g)[:, None] * HEAD_DIM + d[None, :]
            k_offsets = page * stride_k_page + slot * stride_k_slot + g[:, None] * stride_k_group + d[None, :]
            tl.store(k_pages_ptr + k_offsets, tl.load(k_ptr + offsets, mask=inside), mask=inside)
            v_offsets = page * stride_v_page + slot * stride_v_slot + g[:, None] * stride_v_group + d[None, :]
            tl.store(v_pages_ptr + v_offsets, tl.load(v_ptr + offsets, mask=inside), mask=inside)
