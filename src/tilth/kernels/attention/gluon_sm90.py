"""Attention for Hopper in Gluon: one warp loads by TMA, two warpgroups of 64 queries each compute and take turns.

The scores of the next block of keys are computed while the probabilities of the last one multiply its values, and
while one warpgroup has the tensor cores the other exponentiates. Source: Shah et al. 2024, "FlashAttention-3",
algorithm 2 and sections 3.1 and 3.2. The gradients come from two kernels of the same build, one for dq and one for dk
and dv, each of which owns what it writes: no atomics, and the same bits in every run.

The tiles of K and of V lie in rings of STAGES places, with two barriers a place: `ready` (the TMA's bytes have come)
and `free` (both warpgroups have read it). The n-th use of a place is phase n of its barriers, and a wait names the
parity of a phase. tests/kernels/gluon_simulator.py runs these kernels on a CPU and holds them to that protocol.
"""

# Triton reads the annotations of a kernel: only gl.constexpr may stand there.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import functools
from typing import Any

import torch
import triton
from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia import hopper
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, tma
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from tilth.kernels.attention import triton_
from tilth.kernels.attention.visible import Mask, Visible
from tilth.kernels.launches import launch

_LOG2_E = 1.4426950408889634
_LN_2 = gl.constexpr(0.6931471805599453)
_ROWS = gl.constexpr(64)  # queries of one warpgroup: the rows of one wgmma
_WARPGROUPS = gl.constexpr(2)
# What the keys and values of the heads that run at once may take of the 50 MB of L2 cache.
_L2_BYTES = 32 * 2**20
# No kernel of its own for a size that is 1, or a multiple of 16.
_SIZES = (
    "first_shift", "last_shift", "stride_bounds", "n_queries", "n_keys", "n_heads", "n_groups", "n_at_once", "n_padded",
    "stride_b", "stride_t", "stride_h",
)  # fmt: skip


def forward(q_BTHD: Tensor, k_BTGD: Tensor, v_BTGD: Tensor, mask: Mask, softcap: float, scale: float) -> tuple[Tensor, Tensor]:
    """Return (o_BTHD, lse_BHT); a row that sees nothing gives 0 and -inf.

    For types of 16 bits, D of 64, 128 or 256, scale > 0, and no softcap, which is refused with ValueError.
    """
    if softcap:
        raise ValueError(f"softcap is {softcap}; the Gluon kernel has none")
    n_batch, n_queries, n_heads, head_dim = q_BTHD.shape
    n_keys, n_groups = k_BTGD.shape[1:3]
    o = torch.empty(q_BTHD.shape, dtype=q_BTHD.dtype, device=q_BTHD.device)
    lse = torch.empty((n_batch, n_heads, n_queries), dtype=torch.float32, device=q_BTHD.device)
    if o.numel() == 0 or n_keys == 0:
        return o.zero_(), lse.fill_(float("-inf"))
    q, k, v = _tileable(q_BTHD), _tileable(k_BTGD), _tileable(v_BTGD)
    options = launch("attention", "gluon_forward", q, f"D{head_dim}")
    block_n, rows = options.pop("BLOCK_N"), _ROWS.value
    key_bounds = _key_bounds(mask, n_queries, n_keys, q)
    _forward_kernel[(triton.cdiv(n_queries, rows * _WARPGROUPS.value) * n_batch * n_heads,)](
        _descriptor(q, rows), _descriptor(k, block_n), _descriptor(v, block_n), _descriptor(o, rows),
        lse, *key_bounds, scale * _LOG2_E, n_queries, n_keys, n_heads,
        _heads_at_once(n_batch * n_heads, 4 * n_keys * head_dim * n_groups // n_heads),
        HAS_BOUNDS=mask.has_documents, HEADS_PER_GROUP=n_heads // n_groups, **options,
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
    """Return the gradients of q, k and v; heads of 256 do not fit the registers, and have those of the Triton kernels."""
    n_batch, n_queries, n_heads, head_dim = q_BTHD.shape
    n_keys, n_groups = k_BTGD.shape[1:3]
    if head_dim > 128 or q_BTHD.numel() == 0 or n_keys == 0:
        return triton_.backward(do_BTHD, dlse_BHT, q_BTHD, k_BTGD, v_BTGD, o_BTHD, lse_BHT, mask, softcap, scale)
    dq, dk, dv = (torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (q_BTHD, k_BTGD, v_BTGD))
    q, k, v, do = (_tileable(x) for x in (q_BTHD, k_BTGD, v_BTGD, do_BTHD))
    rows, block = _ROWS.value, _ROWS.value * _WARPGROUPS.value
    # A tile of rows may start at any row and reach past the last: its numbers must be there.
    n_padded = triton.cdiv(n_queries + block, block) * block
    lse_log2, delta = lse_BHT.new_empty(2, n_batch * n_heads * n_padded)
    strides = (stride // 8 for stride in _strides(do)[:3])
    _statistics_kernel[(n_padded // 32 * n_batch * n_heads,)](
        o_BTHD.contiguous(), do, lse_BHT, lse_BHT if dlse_BHT is None else dlse_BHT.contiguous(), lse_log2, delta,
        n_queries, n_heads, n_padded, *strides, HAS_DLSE=dlse_BHT is not None, D=head_dim, num_warps=4,
    )  # fmt: skip
    constants = {"HAS_BOUNDS": mask.has_documents, "HEADS_PER_GROUP": n_heads // n_groups}
    numbers = (scale * _LOG2_E, n_queries, n_keys)
    key_bounds = _key_bounds(mask, n_queries, n_keys, q)

    options = launch("attention", "gluon_dq", q, f"D{head_dim}")
    block_n = options.pop("BLOCK_N")
    n_at_once = _heads_at_once(n_batch * n_heads, 4 * n_keys * head_dim * n_groups // n_heads)
    _dq_kernel[(triton.cdiv(n_queries, block) * n_batch * n_heads,)](
        *(_descriptor(x, n) for x, n in ((q, rows), (k, block_n), (v, block_n), (do, rows), (dq, rows))),
        lse_log2, delta, *key_bounds, *numbers, n_heads, n_at_once, n_padded, **constants, **options,
    )  # fmt: skip
    options = launch("attention", "gluon_dkv", q, f"D{head_dim}")
    block_m = options.pop("BLOCK_M")
    n_at_once = _heads_at_once(n_batch * n_groups, 4 * n_queries * head_dim * n_heads // n_groups)
    _dkv_kernel[(triton.cdiv(n_keys, block) * n_batch * n_groups,)](
        *(_descriptor(x, n) for x, n in ((q, block_m), (k, rows), (v, rows), (do, block_m), (dk, rows), (dv, rows))),
        _numbers(lse_log2, block_m), _numbers(delta, block_m),
        *_query_bounds(key_bounds, mask, n_keys), *numbers, n_groups, n_at_once, n_padded, **constants, **options,
    )  # fmt: skip
    return dq, dk, dv


def _numbers(x: Tensor, n: int) -> TensorDescriptor:
    """Describe tiles of `n` numbers."""
    layout = gl.NVMMASharedLayout(swizzle_byte_width=0, element_bitwidth=32, rank=1)
    return TensorDescriptor(x, [x.numel()], [1], [n], layout)


def _descriptor(x_BTHD: Tensor, rows: int) -> TensorDescriptor:
    """Describe tiles of `rows` tokens of one head."""
    layout = gl.NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=16, rank=4)
    return TensorDescriptor(x_BTHD, list(x_BTHD.shape), _strides(x_BTHD), [1, rows, 1, x_BTHD.shape[3]], layout)


def _strides(x_BTHD: Tensor) -> list[int]:
    """Return the strides, for sizes of 1 those of a tensor without gaps: they are never used, and may be anything."""
    strides = list(x_BTHD.stride())
    for i in (2, 1, 0):
        if x_BTHD.shape[i] == 1:
            strides[i] = x_BTHD.shape[i + 1] * strides[i + 1]
    return strides


def _tileable(x_BTHD: Tensor) -> Tensor:
    """Return the tensor itself, or a copy where the TMA cannot read it: its strides must nest, by multiples of 16 bytes."""
    strides = _strides(x_BTHD)
    is_nested = all(strides[i] >= x_BTHD.shape[i + 1] * strides[i + 1] and strides[i] % 8 == 0 for i in range(3))
    if is_nested and strides[3] == 1 and x_BTHD.data_ptr() % 16 == 0:
        return x_BTHD
    return x_BTHD.clone(memory_format=torch.contiguous_format)


def _key_bounds(mask: Mask, n_queries: int, n_keys: int, like: Tensor) -> tuple[Any, ...]:
    """Return the first and last key of each query, how far both lie from it, and the stride of the rows of the batch.

    For documents the first two are what counts, and else the next two: the tensors are then not read.
    """
    if mask.has_documents:
        visible = Visible.under(mask, n_queries, n_keys, like.device)
        first, last = visible.first_key_BT, visible.last_key_BT
        return first, last, 0, 0, n_queries if first.shape[0] > 1 else 0
    unread = like.new_empty(1, dtype=torch.int32)
    ahead = n_keys - n_queries
    return unread, unread, -n_queries if mask.left < 0 else ahead - mask.left, n_keys if mask.right < 0 else ahead + mask.right, 0


def _query_bounds(key_bounds: tuple[Any, ...], mask: Mask, n_keys: int) -> tuple[Any, ...]:
    """Return the same for the queries that see each key."""
    first, last, first_shift, last_shift, stride = key_bounds
    if mask.has_documents:
        visible = Visible(first, last, n_keys)
        return visible.first_query_BS, visible.last_query_BS, 0, 0, n_keys if stride else 0
    return first, last, -last_shift, -first_shift, stride


@functools.lru_cache(maxsize=1024)
def _heads_at_once(n_heads: int, bytes_of_head: int) -> int:
    """Return the largest divisor of `n_heads`, those of all rows of the batch, whose keys and values fit the L2 cache."""
    at_most = min(n_heads, max(_L2_BYTES // max(bytes_of_head, 1), 1))
    return max(n for n in range(1, at_most + 1) if n_heads % n == 0)


@gluon.jit(do_not_specialize=_SIZES)
def _forward_kernel(
    q_desc, k_desc, v_desc, o_desc, lse_ptr, first_key_ptr, last_key_ptr, first_shift, last_shift, stride_bounds,
    scale_log2, n_queries, n_keys, n_heads, n_at_once,
    HAS_BOUNDS: gl.constexpr, HEADS_PER_GROUP: gl.constexpr, STAGES: gl.constexpr, CONSUMER_REGISTERS: gl.constexpr,
):  # fmt: skip
    """Attend with one block of 128 queries of one head; a tile is (1, rows, 1, D) of a tensor (B, T, heads, D)."""
    BLOCK_M: gl.constexpr = _ROWS * _WARPGROUPS
    BLOCK_N: gl.constexpr = k_desc.block_shape[1]
    # With one place a warpgroup would wait in its turn for values whose place the other one frees only in the turn after.
    gl.static_assert(STAGES >= 2)
    # The last blocks first: causal ones have most to do.
    n_row_blocks = gl.cdiv(n_queries, BLOCK_M)
    bh, block = _head_and_block(n_row_blocks, n_at_once)
    start_m = (n_row_blocks - 1 - block) * BLOCK_M
    b, h = bh // n_heads, bh % n_heads
    to_batch = b.to(gl.int64) * stride_bounds
    bounds = first_key_ptr + to_batch, last_key_ptr + to_batch, first_shift, last_shift, n_queries, n_keys
    blocks = _blocks(bounds, start_m, BLOCK_M, BLOCK_N, HAS_BOUNDS)

    q_tiles = _make_tiles(q_desc, _WARPGROUPS)
    tiles = q_tiles, _make_tiles(k_desc, STAGES), _make_tiles(v_desc, STAGES)
    k_barriers = _make_barriers(STAGES, 1), _make_barriers(STAGES, _WARPGROUPS)
    v_barriers = _make_barriers(STAGES, 1), _make_barriers(STAGES, _WARPGROUPS)
    q_ready, turns = _make_barriers(_WARPGROUPS, 1), _make_barriers(_WARPGROUPS, 1)
    barriers = q_ready, turns, k_barriers, v_barriers
    hopper.fence_async_shared()
    lse_ptr += bh.to(gl.int64) * n_queries
    gl.warp_specialize(
        [
            (_consume, (0, o_desc, lse_ptr, tiles, barriers, bounds, blocks, scale_log2, b, h, start_m, HAS_BOUNDS, STAGES)),
            (_consume, (1, o_desc, lse_ptr, tiles, barriers, bounds, blocks, scale_log2, b, h, start_m, HAS_BOUNDS, STAGES)),
            (_produce, (q_desc, k_desc, v_desc, tiles, barriers, blocks, b, h, h // HEADS_PER_GROUP, start_m, STAGES)),
        ],
        [4, 1],
        [CONSUMER_REGISTERS, 24],
    )


@gluon.jit
def _head_and_block(n_blocks, n_at_once):
    """Return what this program computes: the blocks of n_at_once heads, whose tiles the L2 cache holds, before the next heads."""
    n_programs = n_blocks * n_at_once
    place = gl.program_id(0) % n_programs
    return gl.program_id(0) // n_programs * n_at_once + place % n_at_once, place // n_at_once


@gluon.jit
def _bounds(bounds, row, HAS_BOUNDS: gl.constexpr):
    """Return the first and the last key that queries see, or query that sees keys; rows past the end are as the last row."""
    first_ptr, last_ptr, first_shift, last_shift, n_rows, n_others = bounds
    row = gl.minimum(row, n_rows - 1)
    if HAS_BOUNDS:
        first, last = gl.load(first_ptr + row), gl.load(last_ptr + row)
    else:
        first, last = gl.maximum(row + first_shift, 0), gl.minimum(row + last_shift, n_others - 1)
    return first, last


@gluon.jit
def _blocks(bounds, start, BLOCK: gl.constexpr, BLOCK_OF_OTHERS: gl.constexpr, HAS_BOUNDS: gl.constexpr):
    """Return where what the rows of a block see begins, in how many blocks, and which of these they all see: [from, to).

    Both bounds only rise from row to row. There is at least one block, so that rows that see nothing are no special case.
    """
    lowest, all_to = _bounds(bounds, start, HAS_BOUNDS)
    all_from, highest = _bounds(bounds, start + BLOCK - 1, HAS_BOUNDS)
    n_blocks = gl.cdiv(gl.maximum(highest + 1 - lowest, 1), BLOCK_OF_OTHERS)
    first_whole = gl.cdiv(all_from - lowest, BLOCK_OF_OTHERS)
    return lowest, n_blocks, first_whole, gl.maximum(all_to + 1 - lowest, 0) // BLOCK_OF_OTHERS


@gluon.jit
def _make_tiles(desc, N: gl.constexpr):
    return gl.allocate_shared_memory(desc.dtype, [N] + desc.block_shape, desc.layout)  # noqa: RUF005 (Triton reads no star)


@gluon.jit
def _make_barriers(N: gl.constexpr, ARRIVALS: gl.constexpr):
    """Return N barriers, a phase of which ends with ARRIVALS arrivals."""
    barriers = gl.allocate_shared_memory(gl.int64, [N, 1], mbarrier.MBarrierLayout())
    for i in gl.static_range(N):
        mbarrier.init(barriers.index(i), count=ARRIVALS)
    return barriers


@gluon.jit
def _produce(q_desc, k_desc, v_desc, tiles, barriers, blocks, b, h, g, start_m, STAGES: gl.constexpr):
    """Load the queries and every seen block of keys and values, in the order in which they are used."""
    BLOCK_N: gl.constexpr = k_desc.block_shape[1]
    q_tiles, k_tiles, v_tiles = tiles
    q_ready, _, k_barriers, v_barriers = barriers
    lowest, n_blocks, _, _ = blocks
    for w in gl.static_range(_WARPGROUPS):
        mbarrier.expect(q_ready.index(w), q_desc.block_type.nbytes)
        tma.async_copy_global_to_shared(q_desc, [b, start_m + w * _ROWS, h, 0], q_ready.index(w), q_tiles.index(w))
    _load_tile(k_desc, k_tiles, k_barriers, 0, b, lowest, g, STAGES)
    for i in range(1, n_blocks):
        _load_tile(k_desc, k_tiles, k_barriers, i, b, lowest + i * BLOCK_N, g, STAGES)
        _load_tile(v_desc, v_tiles, v_barriers, i - 1, b, lowest + (i - 1) * BLOCK_N, g, STAGES)
    _load_tile(v_desc, v_tiles, v_barriers, n_blocks - 1, b, lowest + (n_blocks - 1) * BLOCK_N, g, STAGES)


@gluon.jit
def _load_tile(desc, tiles, barriers, i, b, start_n, g, STAGES: gl.constexpr):
    """Load tile number i of its ring; in the first round it waits for the phase before the first, which counts as ended."""
    ready, free = barriers
    place = i % STAGES
    mbarrier.wait(free.index(place), (i // STAGES + 1) & 1)
    mbarrier.expect(ready.index(place), desc.block_type.nbytes)
    tma.async_copy_global_to_shared(desc, [b, start_n, g, 0], ready.index(place), tiles.index(place))


@gluon.jit
def _consume(
    WARPGROUP: gl.constexpr, o_desc, lse_ptr, tiles, barriers, bounds, blocks, scale_log2, b, h, start_m,
    HAS_BOUNDS: gl.constexpr, STAGES: gl.constexpr,
):  # fmt: skip
    """Compute the outputs of 64 queries.

    A warpgroup issues its products only in its turn, and then passes the turn on: turn number i is for the scores of
    block i and the values of block i - 1.
    """
    q_tiles, k_tiles, v_tiles = tiles
    q_ready, turns, k_barriers, v_barriers = barriers
    k_ready, k_free = k_barriers
    v_ready, _ = v_barriers
    lowest, n_blocks, first_whole, last_whole = blocks
    D: gl.constexpr = o_desc.block_shape[3]
    BLOCK_N: gl.constexpr = k_tiles.shape[2]
    s_layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, BLOCK_N, 16])
    o_layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, D, 16])
    p_layout: gl.constexpr = gl.DotOperandLayout(0, o_layout, 2)
    row_layout: gl.constexpr = gl.SliceLayout(1, s_layout)
    _, _, _, _, n_queries, _ = bounds
    start_m += WARPGROUP * _ROWS
    m = start_m + gl.arange(0, _ROWS, row_layout)
    first_key, last_key = _bounds(bounds, m, HAS_BOUNDS)
    if WARPGROUP == 1:
        mbarrier.arrive(turns.index(0), count=1)  # The first turn of all.

    q = q_tiles.index(WARPGROUP).reshape([_ROWS, D])
    mbarrier.wait(q_ready.index(WARPGROUP), 0)
    mbarrier.wait(k_ready.index(0), 0)
    mbarrier.wait(turns.index(WARPGROUP), 0)
    s = _scores(q, k_tiles.index(0), s_layout)
    mbarrier.arrive(turns.index(1 - WARPGROUP), count=1)
    s = hopper.warpgroup_mma_wait(0, [s])
    mbarrier.arrive(k_free.index(0), count=1)
    row_max = gl.full([_ROWS], float("-inf"), gl.float32, row_layout)
    row_sum = gl.full([_ROWS], 0.0, gl.float32, row_layout)
    p, row_max, row_sum, _ = _softmax(s, row_max, row_sum, first_key, last_key, lowest, scale_log2, True)
    p = gl.convert_layout(p.to(o_desc.dtype), p_layout)
    mbarrier.wait(turns.index(WARPGROUP), 1)

    # The first block is done; then those before the first that is whole, the whole ones, and those after them.
    first_whole = gl.minimum(gl.maximum(first_whole, 1), n_blocks)
    last_whole = gl.minimum(gl.maximum(last_whole, first_whole), n_blocks)
    state = gl.full([_ROWS, D], 0.0, gl.float32, o_layout), p, row_max, row_sum
    keys = q, k_tiles, v_tiles, turns, k_barriers, v_barriers, first_key, last_key, lowest, scale_log2
    state = _attend(WARPGROUP, state, keys, 1, first_whole, s_layout, o_layout, STAGES, True)
    state = _attend(WARPGROUP, state, keys, first_whole, last_whole, s_layout, o_layout, STAGES, False)
    acc, p, row_max, row_sum = _attend(WARPGROUP, state, keys, last_whole, n_blocks, s_layout, o_layout, STAGES, True)

    place = (n_blocks - 1) % STAGES
    mbarrier.wait(v_ready.index(place), (n_blocks - 1) // STAGES & 1)
    acc = hopper.warpgroup_mma(p, v_tiles.index(place).reshape([BLOCK_N, D]), acc, is_async=True)
    mbarrier.arrive(turns.index(1 - WARPGROUP), count=1)
    # A row that sees no key has the output 0 and the log-sum-exp -inf.
    row_sum = gl.where(row_sum == 0.0, 1.0, row_sum)
    gl.store(lse_ptr + m, (row_max * scale_log2 + gl.log2(row_sum)) * _LN_2, mask=m < n_queries)
    acc = hopper.warpgroup_mma_wait(0, [acc])
    acc = acc * gl.convert_layout(1.0 / row_sum, gl.SliceLayout(1, o_layout))[:, None]
    _store_tile(o_desc, q_tiles.index(WARPGROUP), acc, b, start_m, h)


@gluon.jit
def _attend(
    WARPGROUP: gl.constexpr, state, keys, begin, end,
    s_layout: gl.constexpr, o_layout: gl.constexpr, STAGES: gl.constexpr, MASKED: gl.constexpr,
):  # fmt: skip
    """Add the key blocks [begin, end): their scores, and the values of the block before each."""
    acc, p, row_max, row_sum = state
    q, k_tiles, v_tiles, turns, k_barriers, v_barriers, first_key, last_key, lowest, scale_log2 = keys
    k_ready, k_free = k_barriers
    v_ready, v_free = v_barriers
    BLOCK_N: gl.constexpr = k_tiles.shape[2]
    for i in range(begin, end):
        place, before = i % STAGES, (i - 1) % STAGES
        mbarrier.wait(k_ready.index(place), i // STAGES & 1)
        s = _scores(q, k_tiles.index(place), s_layout)
        mbarrier.wait(v_ready.index(before), (i - 1) // STAGES & 1)
        acc = hopper.warpgroup_mma(p, v_tiles.index(before).reshape([BLOCK_N, q.shape[1]]), acc, is_async=True)
        mbarrier.arrive(turns.index(1 - WARPGROUP), count=1)
        s = hopper.warpgroup_mma_wait(1, [s])
        mbarrier.arrive(k_free.index(place), count=1)
        next_p, row_max, row_sum, shrink = _softmax(
            s, row_max, row_sum, first_key, last_key, lowest + i * BLOCK_N, scale_log2, MASKED
        )
        # The wait for the turn ends a basic block: without it ptxas moves the wait for the values before the exponentials.
        mbarrier.wait(turns.index(WARPGROUP), (i + 1) & 1)
        acc = hopper.warpgroup_mma_wait(0, [acc])
        mbarrier.arrive(v_free.index(before), count=1)
        p = gl.convert_layout(next_p.to(p.dtype), gl.DotOperandLayout(0, o_layout, 2))
        acc = acc * gl.convert_layout(shrink, gl.SliceLayout(1, o_layout))[:, None]
    return acc, p, row_max, row_sum


@gluon.jit
def _scores(q, k_tile, s_layout: gl.constexpr):
    """Issue the products of the queries with one tile of keys."""
    k = k_tile.reshape([k_tile.shape[1], k_tile.shape[3]])
    zeros = gl.full([q.shape[0], k.shape[0]], 0.0, gl.float32, s_layout)
    return hopper.warpgroup_mma(q, k.permute((1, 0)), zeros, use_acc=False, is_async=True)


@gluon.jit
def _softmax(s, row_max, row_sum, first_key, last_key, start_n, scale_log2, MASKED: gl.constexpr):
    """Return (the probabilities, the new maximum and sum of each row, what everything summed before shrinks by)."""
    if MASKED:
        n = start_n + gl.arange(0, s.shape[1], gl.SliceLayout(0, s.type.layout))
        seen = (n[None, :] >= first_key[:, None]) & (n[None, :] <= last_key[:, None])
        s = gl.where(seen, s, float("-inf"))
    new_max = gl.maximum(row_max, gl.max(s, 1))
    shift = new_max * scale_log2
    if MASKED:
        # A row that has seen nothing yet has the maximum -inf, and -inf - -inf would be NaN.
        shift = gl.where(new_max == float("-inf"), 0.0, shift)
    p = gl.exp2(s * scale_log2 - shift[:, None])
    shrink = gl.exp2(row_max * scale_log2 - shift)
    return p, new_max, row_sum * shrink + gl.sum(p, 1), shrink


@gluon.jit(do_not_specialize=_SIZES)
def _statistics_kernel(
    o_ptr, do_ptr, lse_ptr, dlse_ptr, lse_log2_ptr, delta_ptr, n_queries, n_heads, n_padded, stride_b, stride_t, stride_h,
    HAS_DLSE: gl.constexpr, D: gl.constexpr,
):  # fmt: skip
    """Write for 32 rows what their gradients need, padded to whole tiles; a row that sees nothing, or is none, gets inf and 0.

    The strides are in units of 8 values, so that the compiler knows that it may load these at once.
    """
    ROWS: gl.constexpr = 32
    layout: gl.constexpr = gl.BlockedLayout([1, 8], [4, 8], [4, 1], [1, 0])
    n_row_blocks = n_padded // ROWS
    bh = (gl.program_id(0) // n_row_blocks).to(gl.int64)
    m = gl.program_id(0) % n_row_blocks * ROWS + gl.arange(0, ROWS, gl.SliceLayout(1, layout))
    d = gl.arange(0, D, gl.SliceLayout(0, layout))
    is_row = m < n_queries
    b, h = bh // n_heads, bh % n_heads
    mask = is_row[:, None] & (d < D)[None, :]
    o_rows = ((b * n_queries + m) * n_heads + h) * D
    o = gl.load(o_ptr + o_rows[:, None] + d[None, :], mask=mask, other=0.0).to(gl.float32)
    do_rows = (b * stride_b + m.to(gl.int64) * stride_t + h * stride_h) * 8
    do = gl.load(do_ptr + do_rows[:, None] + d[None, :], mask=mask, other=0.0).to(gl.float32)
    delta = gl.sum(o * do, 1)
    lse = gl.load(lse_ptr + bh * n_queries + m, mask=is_row, other=float("-inf"))
    if HAS_DLSE:
        delta -= gl.load(dlse_ptr + bh * n_queries + m, mask=is_row, other=0.0)
    gl.store(delta_ptr + bh * n_padded + m, delta)
    gl.store(lse_log2_ptr + bh * n_padded + m, gl.where(lse == float("-inf"), float("inf"), lse / _LN_2))


@gluon.jit(do_not_specialize=_SIZES)
def _dq_kernel(
    q_desc, k_desc, v_desc, do_desc, dq_desc, lse_log2_ptr, delta_ptr, first_key_ptr, last_key_ptr,
    first_shift, last_shift, stride_bounds, scale_log2, n_queries, n_keys, n_heads, n_at_once, n_padded,
    HAS_BOUNDS: gl.constexpr, HEADS_PER_GROUP: gl.constexpr, STAGES: gl.constexpr, CONSUMER_REGISTERS: gl.constexpr,
):  # fmt: skip
    """Compute dq of one block of 128 queries of one head, as the forward does its outputs, but without turns."""
    BLOCK_M: gl.constexpr = _ROWS * _WARPGROUPS
    BLOCK_N: gl.constexpr = k_desc.block_shape[1]
    n_row_blocks = gl.cdiv(n_queries, BLOCK_M)
    bh, block = _head_and_block(n_row_blocks, n_at_once)
    start_m = (n_row_blocks - 1 - block) * BLOCK_M
    b, h = bh // n_heads, bh % n_heads
    to_batch = b.to(gl.int64) * stride_bounds
    bounds = first_key_ptr + to_batch, last_key_ptr + to_batch, first_shift, last_shift, n_queries, n_keys
    blocks = _blocks(bounds, start_m, BLOCK_M, BLOCK_N, HAS_BOUNDS)

    q_tiles, do_tiles = _make_tiles(q_desc, _WARPGROUPS), _make_tiles(do_desc, _WARPGROUPS)
    tiles = q_tiles, do_tiles, _make_tiles(k_desc, STAGES), _make_tiles(v_desc, STAGES)
    k_barriers = _make_barriers(STAGES, 1), _make_barriers(STAGES, _WARPGROUPS)
    v_barriers = _make_barriers(STAGES, 1), _make_barriers(STAGES, _WARPGROUPS)
    barriers = _make_barriers(_WARPGROUPS, 1), k_barriers, v_barriers
    hopper.fence_async_shared()
    rows = lse_log2_ptr + bh.to(gl.int64) * n_padded, delta_ptr + bh.to(gl.int64) * n_padded, bounds
    numbers = scale_log2, b, h, start_m
    gl.warp_specialize(
        [
            (_consume_dq, (0, dq_desc, tiles, barriers, rows, blocks, numbers, HAS_BOUNDS, STAGES)),
            (_consume_dq, (1, dq_desc, tiles, barriers, rows, blocks, numbers, HAS_BOUNDS, STAGES)),
            (
                _produce_dq,
                (q_desc, do_desc, k_desc, v_desc, tiles, barriers, blocks, b, h, h // HEADS_PER_GROUP, start_m, STAGES),
            ),
        ],
        [4, 1],
        [CONSUMER_REGISTERS, 24],
    )


@gluon.jit
def _produce_dq(q_desc, do_desc, k_desc, v_desc, tiles, barriers, blocks, b, h, g, start_m, STAGES: gl.constexpr):
    """Load the queries and the gradients of their outputs, and every seen block of keys and values."""
    BLOCK_N: gl.constexpr = k_desc.block_shape[1]
    q_tiles, do_tiles, k_tiles, v_tiles = tiles
    rows_ready, k_barriers, v_barriers = barriers
    lowest, n_blocks, _, _ = blocks
    for w in gl.static_range(_WARPGROUPS):
        _load_pair(q_desc, do_desc, q_tiles, do_tiles, rows_ready, w, b, start_m, h)
    for i in range(n_blocks):
        _load_tile(k_desc, k_tiles, k_barriers, i, b, lowest + i * BLOCK_N, g, STAGES)
        _load_tile(v_desc, v_tiles, v_barriers, i, b, lowest + i * BLOCK_N, g, STAGES)


@gluon.jit
def _load_pair(a_desc, b_desc, a_tiles, b_tiles, ready, w: gl.constexpr, b, start, h):
    """Load what warpgroup w keeps: 64 rows of two tensors."""
    mbarrier.expect(ready.index(w), a_desc.block_type.nbytes + b_desc.block_type.nbytes)
    tma.async_copy_global_to_shared(a_desc, [b, start + w * _ROWS, h, 0], ready.index(w), a_tiles.index(w))
    tma.async_copy_global_to_shared(b_desc, [b, start + w * _ROWS, h, 0], ready.index(w), b_tiles.index(w))


@gluon.jit
def _consume_dq(
    WARPGROUP: gl.constexpr, dq_desc, tiles, barriers, rows, blocks, numbers, HAS_BOUNDS: gl.constexpr, STAGES: gl.constexpr
):
    """Compute dq of 64 queries. Every block is masked: the products take longer."""
    q_tiles, do_tiles, k_tiles, v_tiles = tiles
    rows_ready, k_barriers, v_barriers = barriers
    k_ready, k_free = k_barriers
    v_ready, v_free = v_barriers
    lse_log2_ptr, delta_ptr, bounds = rows
    lowest, n_blocks, _, _ = blocks
    scale_log2, b, h, start_m = numbers
    D: gl.constexpr = dq_desc.block_shape[3]
    BLOCK_N: gl.constexpr = k_tiles.shape[2]
    s_layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, BLOCK_N, 16])
    dq_layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, D, 16])
    start_m += WARPGROUP * _ROWS
    m = start_m + gl.arange(0, _ROWS, gl.SliceLayout(1, s_layout))
    first_key, last_key = _bounds(bounds, m, HAS_BOUNDS)
    lse_log2, delta = gl.load(lse_log2_ptr + m), gl.load(delta_ptr + m)
    mbarrier.wait(rows_ready.index(WARPGROUP), 0)
    q = q_tiles.index(WARPGROUP).reshape([_ROWS, D])
    do = do_tiles.index(WARPGROUP).reshape([_ROWS, D])
    dq = gl.full([_ROWS, D], 0.0, gl.float32, dq_layout)
    for i in range(n_blocks):
        place = i % STAGES
        mbarrier.wait(k_ready.index(place), i // STAGES & 1)
        s = _scores(q, k_tiles.index(place), s_layout)
        mbarrier.wait(v_ready.index(place), i // STAGES & 1)
        dp = _scores(do, v_tiles.index(place), s_layout)
        s = hopper.warpgroup_mma_wait(1, [s])
        n = lowest + i * BLOCK_N + gl.arange(0, BLOCK_N, gl.SliceLayout(0, s_layout))
        seen = (n[None, :] >= first_key[:, None]) & (n[None, :] <= last_key[:, None])
        p = gl.exp2(gl.where(seen, s * scale_log2 - lse_log2[:, None], float("-inf")))
        dp = hopper.warpgroup_mma_wait(0, [dp])
        mbarrier.arrive(v_free.index(place), count=1)
        ds = gl.convert_layout((p * (dp - delta[:, None])).to(dq_desc.dtype), gl.DotOperandLayout(0, dq_layout, 2))
        dq = hopper.warpgroup_mma(ds, k_tiles.index(place).reshape([BLOCK_N, D]), dq, is_async=True)
        dq = hopper.warpgroup_mma_wait(0, [dq])
        mbarrier.arrive(k_free.index(place), count=1)
    _store_tile(dq_desc, q_tiles.index(WARPGROUP), dq * (scale_log2 * _LN_2), b, start_m, h)


@gluon.jit(do_not_specialize=_SIZES)
def _dkv_kernel(
    q_desc, k_desc, v_desc, do_desc, dk_desc, dv_desc, lse_log2_desc, delta_desc, first_query_ptr, last_query_ptr,
    first_shift, last_shift, stride_bounds, scale_log2, n_queries, n_keys, n_groups, n_at_once, n_padded,
    HAS_BOUNDS: gl.constexpr, HEADS_PER_GROUP: gl.constexpr, STAGES: gl.constexpr, CONSUMER_REGISTERS: gl.constexpr,
):  # fmt: skip
    """Compute dk and dv of one block of 128 keys: all the heads of its group add to them, in their order."""
    BLOCK_N: gl.constexpr = _ROWS * _WARPGROUPS
    BLOCK_M: gl.constexpr = q_desc.block_shape[1]
    # The first blocks first: of causal keys they are seen by the most queries.
    bg, block = _head_and_block(gl.cdiv(n_keys, BLOCK_N), n_at_once)
    start_n = block * BLOCK_N
    b, g = bg // n_groups, bg % n_groups
    to_batch = b.to(gl.int64) * stride_bounds
    bounds = first_query_ptr + to_batch, last_query_ptr + to_batch, first_shift, last_shift, n_keys, n_queries
    blocks = _blocks(bounds, start_n, BLOCK_N, BLOCK_M, HAS_BOUNDS)

    k_tiles, v_tiles = _make_tiles(k_desc, _WARPGROUPS), _make_tiles(v_desc, _WARPGROUPS)
    ring = (
        _make_tiles(q_desc, STAGES),
        _make_tiles(do_desc, STAGES),
        _make_tiles(lse_log2_desc, STAGES),
        _make_tiles(delta_desc, STAGES),
    )
    tiles = k_tiles, v_tiles, ring
    barriers = _make_barriers(_WARPGROUPS, 1), _make_barriers(STAGES, 1), _make_barriers(STAGES, _WARPGROUPS)
    hopper.fence_async_shared()
    numbers = scale_log2, b, g, start_n
    ring_descs = q_desc, do_desc, lse_log2_desc, delta_desc
    gl.warp_specialize(
        [
            (_consume_dkv, (0, dk_desc, dv_desc, tiles, barriers, bounds, blocks, numbers, HEADS_PER_GROUP, HAS_BOUNDS, STAGES)),
            (_consume_dkv, (1, dk_desc, dv_desc, tiles, barriers, bounds, blocks, numbers, HEADS_PER_GROUP, HAS_BOUNDS, STAGES)),
            (
                _produce_dkv,
                (k_desc, v_desc, ring_descs, tiles, barriers, blocks, b, g, start_n, n_groups, n_padded, HEADS_PER_GROUP, STAGES),
            ),
        ],
        [4, 1],
        [CONSUMER_REGISTERS, 24],
    )


@gluon.jit
def _produce_dkv(
    k_desc, v_desc, ring_descs, tiles, barriers, blocks, b, g, start_n, n_groups, n_padded,
    HEADS_PER_GROUP: gl.constexpr, STAGES: gl.constexpr,
):  # fmt: skip
    """Load the keys and values, and for every head the seen tiles of queries, with one number of each kind for each row."""
    k_tiles, v_tiles, ring = tiles
    q_tiles, do_tiles, lse_log2_tiles, delta_tiles = ring
    q_desc, do_desc, lse_log2_desc, delta_desc = ring_descs
    rows_ready, ready, free = barriers
    lowest, n_blocks, _, _ = blocks
    BLOCK_M: gl.constexpr = q_desc.block_shape[1]
    N_BYTES: gl.constexpr = 2 * q_desc.block_type.nbytes + 2 * delta_desc.block_type.nbytes
    for w in gl.static_range(_WARPGROUPS):
        _load_pair(k_desc, v_desc, k_tiles, v_tiles, rows_ready, w, b, start_n, g)
    for r in range(HEADS_PER_GROUP):
        h = g * HEADS_PER_GROUP + r
        to_head = (b * n_groups * HEADS_PER_GROUP + h) * n_padded
        for j in range(n_blocks):
            i, start_m = r * n_blocks + j, lowest + j * BLOCK_M
            place = i % STAGES
            mbarrier.wait(free.index(place), (i // STAGES + 1) & 1)
            mbarrier.expect(ready.index(place), N_BYTES)
            tma.async_copy_global_to_shared(q_desc, [b, start_m, h, 0], ready.index(place), q_tiles.index(place))
            tma.async_copy_global_to_shared(lse_log2_desc, [to_head + start_m], ready.index(place), lse_log2_tiles.index(place))
            tma.async_copy_global_to_shared(do_desc, [b, start_m, h, 0], ready.index(place), do_tiles.index(place))
            tma.async_copy_global_to_shared(delta_desc, [to_head + start_m], ready.index(place), delta_tiles.index(place))


@gluon.jit
def _consume_dkv(
    WARPGROUP: gl.constexpr, dk_desc, dv_desc, tiles, barriers, bounds, blocks, numbers,
    HEADS_PER_GROUP: gl.constexpr, HAS_BOUNDS: gl.constexpr, STAGES: gl.constexpr,
):  # fmt: skip
    """Compute dk and dv of 64 keys, which are the rows of all products. Every block is masked: the products take longer."""
    k_tiles, v_tiles, ring = tiles
    q_tiles, do_tiles, lse_log2_tiles, delta_tiles = ring
    rows_ready, ready, free = barriers
    lowest, n_blocks, _, _ = blocks
    scale_log2, b, g, start_n = numbers
    D: gl.constexpr = dk_desc.block_shape[3]
    BLOCK_M: gl.constexpr = q_tiles.shape[2]
    s_layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, BLOCK_M, 16])
    dk_layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, D, 16])
    p_layout: gl.constexpr = gl.DotOperandLayout(0, dk_layout, 2)
    column_layout: gl.constexpr = gl.SliceLayout(0, s_layout)
    start_n += WARPGROUP * _ROWS
    n = start_n + gl.arange(0, _ROWS, gl.SliceLayout(1, s_layout))
    first_query, last_query = _bounds(bounds, n, HAS_BOUNDS)
    mbarrier.wait(rows_ready.index(WARPGROUP), 0)
    k = k_tiles.index(WARPGROUP).reshape([_ROWS, D])
    v = v_tiles.index(WARPGROUP).reshape([_ROWS, D])
    dk = gl.full([_ROWS, D], 0.0, gl.float32, dk_layout)
    dv = gl.full([_ROWS, D], 0.0, gl.float32, dk_layout)
    for r in range(HEADS_PER_GROUP):
        for j in range(n_blocks):
            i = r * n_blocks + j
            place = i % STAGES
            mbarrier.wait(ready.index(place), i // STAGES & 1)
            s = _scores(k, q_tiles.index(place), s_layout)
            dp = _scores(v, do_tiles.index(place), s_layout)
            s = hopper.warpgroup_mma_wait(1, [s])
            s = s * scale_log2 - lse_log2_tiles.index(place).load(column_layout)[None, :]
            m = lowest + j * BLOCK_M + gl.arange(0, BLOCK_M, column_layout)
            seen = (m[None, :] >= first_query[:, None]) & (m[None, :] <= last_query[:, None])
            p = gl.exp2(gl.where(seen, s, float("-inf")))
            do = do_tiles.index(place).reshape([BLOCK_M, D])
            dv = hopper.warpgroup_mma(gl.convert_layout(p.to(dv_desc.dtype), p_layout), do, dv, is_async=True)
            dp = hopper.warpgroup_mma_wait(1, [dp])
            ds = p * (dp - delta_tiles.index(place).load(column_layout)[None, :])
            q = q_tiles.index(place).reshape([BLOCK_M, D])
            dk = hopper.warpgroup_mma(gl.convert_layout(ds.to(dk_desc.dtype), p_layout), q, dk, is_async=True)
            dk, dv = hopper.warpgroup_mma_wait(0, [dk, dv])
            mbarrier.arrive(free.index(place), count=1)
    _store_tile(dk_desc, k_tiles.index(WARPGROUP), dk * (scale_log2 * _LN_2), b, start_n, g)
    _store_tile(dv_desc, v_tiles.index(WARPGROUP), dv, b, start_n, g)


@gluon.jit
def _store_tile(desc, tile, value, b, start, h):
    """Write 64 rows by way of a tile that has been read."""
    tile.reshape([tile.shape[1], tile.shape[3]]).store(value.to(desc.dtype))
    hopper.fence_async_shared()
    tma.async_copy_shared_to_global(desc, [b, start, h, 0], tile)
    tma.store_wait(0)
