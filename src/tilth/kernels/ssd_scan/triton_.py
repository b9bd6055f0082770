"""The chunked Mamba-2 recurrence in Triton, forward and backward, without atomics: every run gives the same bits.

Forward, where rows and heads fill the GPU: one kernel that walks the chunks of a row and head in order with the state in
registers, so that only inputs and outputs move. Else two: the states walked alone, in slices, and then the outputs of all
chunks in parallel. The gradient walks the states' gradients from the last chunk to the first; then every chunk is taken by
itself: its heads for what is theirs, and its groups, in a loop over their heads, for the gradients of B and C, which so are
summed in registers.
Documents of cu_seqlens are rows of their own. `reverse` is another order of reading and nothing else.
Letters: k chunk among those of all rows, c chunk of a row, i token of a row and q of a chunk in the order of the scan.
Source: Dao and Gu 2024, "Transformers are SSMs", section 6.
"""

# Triton reads the annotations of a kernel: only tl.constexpr may stand there.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from tilth.kernels.documents import number_documents
from tilth.kernels.launches import precision
from tilth.kernels.ssd_scan.inputs import (
    ScanInputs,
    ScanOptions,
    kept_states,
    largest_number_of_chunks,
    triton_options,
)
from tilth.kernels.ssd_scan.triton_chunks import (
    _chunk_of_row,
    _decay_between,
    _decays_of_chunk,
    _row_of_tokens,
    _settled,
    _step_sizes,
    _tokens_of_chunk,
    _wide,
)

# Programs below which a kernel leaves much of a large GPU idle; fixed, so that no sum depends on the machine.
FUSED_PROGRAMS = 132
GRADIENT_PROGRAMS = 256
_GATE_TOKENS = 32


@triton.jit
def _store_output(
    y, x, D_ptr, z_ptr, y_ptr, ungated_ptr, x_base, x_offsets, x_mask, h, p,
    HEAD_DIM: tl.constexpr, D_DIMS: tl.constexpr, HAS_Z: tl.constexpr, KEEP: tl.constexpr,
):  # fmt: skip
    """Add D x, keep the sum for the gradient, and store it through the gate."""
    if D_DIMS == 1:
        y += tl.load(D_ptr + h).to(tl.float32) * x.to(tl.float32)
    if D_DIMS == 2:
        y += tl.load(D_ptr + h * HEAD_DIM + p, mask=p < HEAD_DIM, other=0.0).to(tl.float32)[None, :] * x.to(tl.float32)
    if HAS_Z:
        if KEEP:
            tl.store(ungated_ptr + x_base + x_offsets, y.to(ungated_ptr.dtype.element_ty), mask=x_mask)
        z = tl.load(z_ptr + x_base + x_offsets, mask=x_mask, other=0.0).to(tl.float32)
        e = tl.exp(-tl.abs(z))
        y = y * z * tl.where(z >= 0.0, 1.0, e) / (1.0 + e)
    tl.store(y_ptr + x_base + x_offsets, y.to(y_ptr.dtype.element_ty), mask=x_mask)


@triton.jit
def _fused_kernel(
    x_ptr, dt_ptr, A_ptr, B_ptr, C_ptr, D_ptr, z_ptr, bias_ptr, initial_ptr, documents_ptr, cu_ptr, first_chunk_ptr,
    y_ptr, ungated_ptr, kept_ptr, final_ptr, n_tokens, dt_min, dt_max,
    CHUNK: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_N: tl.constexpr, N_HEADS: tl.constexpr,
    HEADS_PER_GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, D_STATE: tl.constexpr,
    HAS_SEGMENTS: tl.constexpr, HAS_BOUNDS: tl.constexpr, REVERSE: tl.constexpr, HAS_BIAS: tl.constexpr,
    SOFTPLUS: tl.constexpr, HAS_INITIAL: tl.constexpr, D_DIMS: tl.constexpr, HAS_Z: tl.constexpr, KEEP: tl.constexpr,
    EXACT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """All chunks of one row and head, and of a slice of its channels, with the state in registers."""
    h = tl.program_id(0) % N_HEADS
    n_slices = tl.cdiv(HEAD_DIM, BLOCK_P)
    row = tl.program_id(0) // N_HEADS // n_slices
    start, length, first_chunk = _row_of_tokens(row, cu_ptr, first_chunk_ptr, n_tokens, CHUNK, HAS_BOUNDS)
    A = tl.load(A_ptr + h).to(tl.float32)
    p = tl.program_id(0) // N_HEADS % n_slices * BLOCK_P + tl.arange(0, BLOCK_P)
    n = tl.arange(0, BLOCK_N)
    n_groups = N_HEADS // HEADS_PER_GROUP
    state_offsets = p[None, :] * D_STATE + n[:, None]
    state_mask = (p < HEAD_DIM)[None, :] & (n < D_STATE)[:, None]
    state_size = HEAD_DIM * D_STATE
    own_state = (row * N_HEADS + h).to(tl.int64) * state_size
    state = tl.zeros([BLOCK_N, BLOCK_P], dtype=tl.float32)  # N first: a product of 64 rows or more, however narrow the slice
    if HAS_INITIAL:
        state += tl.load(initial_ptr + own_state + state_offsets, mask=state_mask, other=0.0).to(tl.float32)
    for c in range(tl.cdiv(length, CHUNK)):
        if KEEP:
            kept_offset = ((first_chunk + c).to(tl.int64) * N_HEADS + h) * state_size
            tl.store(kept_ptr + kept_offset + state_offsets, state.to(kept_ptr.dtype.element_ty), mask=state_mask)
        base, step, inside = _tokens_of_chunk(start, length, c, CHUNK, REVERSE, False)
        dt, _slope = _step_sizes(dt_ptr, bias_ptr, base, step, inside, h, dt_min, dt_max, N_HEADS, HAS_BIAS, SOFTPLUS)
        high, low, number, decay_in, decay_out, carry = _decays_of_chunk(
            dt, A, documents_ptr, start, length, c, base, step, inside, CHUNK, HAS_SEGMENTS, REVERSE, False, EXACT
        )
        x_base = (base * N_HEADS + h) * HEAD_DIM
        x_offsets = step[:, None] * (N_HEADS * HEAD_DIM) + p[None, :]
        n_base = (base * n_groups + h // HEADS_PER_GROUP) * D_STATE
        n_offsets = step[:, None] * (n_groups * D_STATE) + n[None, :]
        x_mask = inside[:, None] & (p < HEAD_DIM)[None, :]
        n_mask = inside[:, None] & (n < D_STATE)[None, :]
        x = tl.load(x_ptr + x_base + x_offsets, mask=x_mask, other=0.0)
        B = tl.load(B_ptr + n_base + n_offsets, mask=n_mask, other=0.0).to(x.dtype)
        C = tl.load(C_ptr + n_base + n_offsets, mask=n_mask, other=0.0).to(x.dtype)
        y = tl.dot(C, state.to(x.dtype), input_precision=PRECISION) * decay_in[:, None]
        weighted_x = (x.to(tl.float32) * (decay_out * dt)[:, None]).to(x.dtype)
        state = tl.dot(tl.trans(B), weighted_x, state * carry, input_precision=PRECISION)
        weights = tl.dot(C, tl.trans(B), input_precision=PRECISION)
        weights *= _decay_between(high, low, number, CHUNK, HAS_SEGMENTS, False, EXACT) * dt[None, :]
        y = tl.dot(weights.to(x.dtype), x, y, input_precision=PRECISION)
        _store_output(y, x, D_ptr, z_ptr, y_ptr, ungated_ptr, x_base, x_offsets, x_mask, h, p, HEAD_DIM, D_DIMS, HAS_Z, KEEP)
    tl.store(final_ptr + own_state + state_offsets, state, mask=state_mask)


@triton.jit
def _walk_kernel(
    x_ptr, dt_ptr, A_ptr, B_ptr, bias_ptr, first_ptr, documents_ptr, cu_ptr, first_chunk_ptr, states_ptr, last_ptr,
    n_tokens, dt_min, dt_max,
    CHUNK: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_N: tl.constexpr, N_HEADS: tl.constexpr,
    HEADS_PER_GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, D_STATE: tl.constexpr,
    HAS_SEGMENTS: tl.constexpr, HAS_BOUNDS: tl.constexpr, REVERSE: tl.constexpr, HAS_BIAS: tl.constexpr,
    SOFTPLUS: tl.constexpr, HAS_FIRST: tl.constexpr, BACKWARD: tl.constexpr, EXACT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The states that the chunks of one row and head get, a slice of them; BACKWARD: their gradients, with dy and C."""
    h = tl.program_id(0) % N_HEADS
    n_slices_p, n_slices_n = tl.cdiv(HEAD_DIM, BLOCK_P), tl.cdiv(D_STATE, BLOCK_N)
    program = tl.program_id(0) // N_HEADS
    p = program % n_slices_p * BLOCK_P + tl.arange(0, BLOCK_P)
    n = program // n_slices_p % n_slices_n * BLOCK_N + tl.arange(0, BLOCK_N)
    row = program // n_slices_p // n_slices_n
    start, length, first_chunk = _row_of_tokens(row, cu_ptr, first_chunk_ptr, n_tokens, CHUNK, HAS_BOUNDS)
    A = tl.load(A_ptr + h).to(tl.float32)
    n_groups = N_HEADS // HEADS_PER_GROUP
    state_offsets = p[:, None] * D_STATE + n[None, :]
    state_mask = (p < HEAD_DIM)[:, None] & (n < D_STATE)[None, :]
    state_size = HEAD_DIM * D_STATE
    own_state = (row * N_HEADS + h).to(tl.int64) * state_size
    state = tl.zeros([BLOCK_P, BLOCK_N], dtype=tl.float32)
    if HAS_FIRST:
        state += tl.load(first_ptr + own_state + state_offsets, mask=state_mask, other=0.0).to(tl.float32)
    n_chunks = tl.cdiv(length, CHUNK)
    for number_read in range(n_chunks):
        c = number_read
        if BACKWARD:
            c = n_chunks - 1 - number_read
        base, step, inside = _tokens_of_chunk(start, length, c, CHUNK, REVERSE, BACKWARD)
        dt, _slope = _step_sizes(dt_ptr, bias_ptr, base, step, inside, h, dt_min, dt_max, N_HEADS, HAS_BIAS, SOFTPLUS)
        _high, _low, _number, decay_in, decay_out, carry = _decays_of_chunk(
            dt, A, documents_ptr, start, length, c, base, step, inside, CHUNK, HAS_SEGMENTS, REVERSE, BACKWARD, EXACT
        )
        if BACKWARD:
            weight = decay_in
        else:
            weight = decay_out * dt
        x_base = (base * N_HEADS + h) * HEAD_DIM
        x_offsets = step[:, None] * (N_HEADS * HEAD_DIM) + p[None, :]
        n_base = (base * n_groups + h // HEADS_PER_GROUP) * D_STATE
        n_offsets = step[:, None] * (n_groups * D_STATE) + n[None, :]
        x = tl.load(x_ptr + x_base + x_offsets, mask=inside[:, None] & (p < HEAD_DIM)[None, :], other=0.0)
        B = tl.load(B_ptr + n_base + n_offsets, mask=inside[:, None] & (n < D_STATE)[None, :], other=0.0)
        kept_offset = ((first_chunk + c).to(tl.int64) * N_HEADS + h) * state_size
        tl.store(states_ptr + kept_offset + state_offsets, state.to(states_ptr.dtype.element_ty), mask=state_mask)
        weighted_B = (B.to(tl.float32) * weight[:, None]).to(x.dtype)
        state = tl.dot(tl.trans(x), weighted_B, state * carry, input_precision=PRECISION)
    tl.store(last_ptr + own_state + state_offsets, state.to(last_ptr.dtype.element_ty), mask=state_mask)


@triton.jit
def _output_kernel(
    x_ptr, dt_ptr, A_ptr, B_ptr, C_ptr, D_ptr, z_ptr, bias_ptr, documents_ptr, cu_ptr, first_chunk_ptr, row_of_chunk_ptr,
    states_ptr, y_ptr, ungated_ptr, n_rows, n_tokens, dt_min, dt_max, n_parts,
    CHUNK: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_N: tl.constexpr, N_HEADS: tl.constexpr,
    HEADS_PER_GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, D_STATE: tl.constexpr,
    HAS_SEGMENTS: tl.constexpr, HAS_BOUNDS: tl.constexpr, REVERSE: tl.constexpr, HAS_BIAS: tl.constexpr,
    SOFTPLUS: tl.constexpr, D_DIMS: tl.constexpr, HAS_Z: tl.constexpr, KEEP: tl.constexpr, EXACT: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """The outputs of one chunk, for a part of the heads of one group: C B^T is computed once for them."""
    n_groups = N_HEADS // HEADS_PER_GROUP
    g = tl.program_id(0) % n_groups
    part = tl.program_id(0) // n_groups % n_parts
    k = tl.program_id(0) // n_groups // n_parts
    start, length, c = _chunk_of_row(cu_ptr, first_chunk_ptr, row_of_chunk_ptr, k, n_rows, n_tokens, CHUNK, HAS_BOUNDS)
    if c * CHUNK >= length:
        return
    base, step, inside = _tokens_of_chunk(start, length, c, CHUNK, REVERSE, False)
    p, n = tl.arange(0, BLOCK_P), tl.arange(0, BLOCK_N)
    n_base = (base * n_groups + g) * D_STATE
    n_offsets = step[:, None] * (n_groups * D_STATE) + n[None, :]
    n_mask = inside[:, None] & (n < D_STATE)[None, :]
    x_mask = inside[:, None] & (p < HEAD_DIM)[None, :]
    state_mask = (p < HEAD_DIM)[:, None] & (n < D_STATE)[None, :]
    B = tl.load(B_ptr + n_base + n_offsets, mask=n_mask, other=0.0).to(x_ptr.dtype.element_ty)
    C = tl.load(C_ptr + n_base + n_offsets, mask=n_mask, other=0.0).to(x_ptr.dtype.element_ty)
    scores = tl.dot(C, tl.trans(B), input_precision=PRECISION)
    heads_per_part = tl.cdiv(HEADS_PER_GROUP, n_parts)
    first_head = g * HEADS_PER_GROUP + part * heads_per_part
    for h in range(first_head, tl.minimum(first_head + heads_per_part, (g + 1) * HEADS_PER_GROUP)):
        dt, _slope = _step_sizes(dt_ptr, bias_ptr, base, step, inside, h, dt_min, dt_max, N_HEADS, HAS_BIAS, SOFTPLUS)
        high, low, number, decay_in, _decay_out, _carry = _decays_of_chunk(
            dt, tl.load(A_ptr + h).to(tl.float32), documents_ptr, start, length, c, base, step, inside,
            CHUNK, HAS_SEGMENTS, REVERSE, False, EXACT,
        )  # fmt: skip
        x_base = (base * N_HEADS + h) * HEAD_DIM
        x_offsets = step[:, None] * (N_HEADS * HEAD_DIM) + p[None, :]
        x = tl.load(x_ptr + x_base + x_offsets, mask=x_mask, other=0.0)
        state_base = (k.to(tl.int64) * N_HEADS + h) * HEAD_DIM * D_STATE
        state_offsets = p[:, None] * D_STATE + n[None, :]
        state = tl.load(states_ptr + state_base + state_offsets, mask=state_mask, other=0.0)
        weights = scores * _decay_between(high, low, number, CHUNK, HAS_SEGMENTS, False, EXACT) * dt[None, :]
        y = tl.dot(C, tl.trans(state), input_precision=PRECISION) * decay_in[:, None]
        y = tl.dot(weights.to(x.dtype), x, y, input_precision=PRECISION)
        _store_output(y, x, D_ptr, z_ptr, y_ptr, ungated_ptr, x_base, x_offsets, x_mask, h, p, HEAD_DIM, D_DIMS, HAS_Z, KEEP)


@triton.jit
def _ungate_kernel(
    dy_ptr, x_ptr, z_ptr, ungated_ptr, dinner_ptr, dz_ptr, dD_ptr, n_rows,
    ROWS: tl.constexpr, BLOCK_P: tl.constexpr, N_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, D_DIMS: tl.constexpr,
    EXACT: tl.constexpr,
):  # fmt: skip
    """The gradients of y before the gate and of z, with s the sigmoid: dy z s, and dy y s (1 + z (1 - s)).

    For ROWS tokens of one head; with D also a part of its gradient, from dy z s before that is rounded.
    """
    h = tl.program_id(0) % N_HEADS
    row, p = tl.program_id(0) // N_HEADS * ROWS + tl.arange(0, ROWS), tl.arange(0, BLOCK_P)
    mask = (row < n_rows)[:, None] & (p < HEAD_DIM)[None, :]
    i = (row.to(tl.int64)[:, None] * N_HEADS + h) * HEAD_DIM + p[None, :]
    dy = _wide(tl.load(dy_ptr + i, mask=mask, other=0.0), EXACT)
    z = _wide(tl.load(z_ptr + i, mask=mask, other=0.0), EXACT)
    y = _wide(tl.load(ungated_ptr + i, mask=mask, other=0.0), EXACT)
    e = tl.exp(-tl.abs(z))
    sigmoid = tl.where(z >= 0.0, 1.0, e) / (1.0 + e)
    other = tl.where(z >= 0.0, e, 1.0) / (1.0 + e)  # 1 - sigmoid, without its rounding
    dinner = dy * z * sigmoid
    tl.store(dinner_ptr + i, dinner.to(dinner_ptr.dtype.element_ty), mask=mask)
    tl.store(dz_ptr + i, (dy * y * sigmoid * (1.0 + z * other)).to(dz_ptr.dtype.element_ty), mask=mask)
    if D_DIMS > 0:
        x = _wide(tl.load(x_ptr + i, mask=mask, other=0.0), EXACT)
        dD = tl.sum(dinner * x, axis=0).to(tl.float32)
        tl.store(dD_ptr + tl.program_id(0).to(tl.int64) * HEAD_DIM + p, dD, mask=p < HEAD_DIM)


@triton.jit
def _gradient_kernel(
    dy_ptr, x_ptr, dt_ptr, A_ptr, B_ptr, C_ptr, D_ptr, bias_ptr, documents_ptr, cu_ptr, first_chunk_ptr, row_of_chunk_ptr,
    states_ptr, dstates_ptr, dx_ptr, ddt_ptr, dA_ptr, dD_ptr, dbias_ptr,
    n_rows, n_tokens, dt_min, dt_max,
    CHUNK: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_N: tl.constexpr, N_HEADS: tl.constexpr,
    HEADS_PER_GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, D_STATE: tl.constexpr,
    HAS_SEGMENTS: tl.constexpr, HAS_BOUNDS: tl.constexpr, REVERSE: tl.constexpr, HAS_BIAS: tl.constexpr,
    SOFTPLUS: tl.constexpr, D_DIMS: tl.constexpr, HAS_Z: tl.constexpr, EXACT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The gradients of x, dt, A, D and the bias of one chunk and head."""
    n_groups = N_HEADS // HEADS_PER_GROUP
    h = tl.program_id(0) % N_HEADS
    k = tl.program_id(0) // N_HEADS
    start, length, c = _chunk_of_row(cu_ptr, first_chunk_ptr, row_of_chunk_ptr, k, n_rows, n_tokens, CHUNK, HAS_BOUNDS)
    if c * CHUNK >= length:
        return
    base, step, inside = _tokens_of_chunk(start, length, c, CHUNK, REVERSE, True)
    q, n = tl.arange(0, CHUNK), tl.arange(0, BLOCK_N)
    A = tl.load(A_ptr + h).to(tl.float32)
    dt, slope = _step_sizes(dt_ptr, bias_ptr, base, step, inside, h, dt_min, dt_max, N_HEADS, HAS_BIAS, SOFTPLUS)
    high, low, number, decay_in, decay_out, carry = _decays_of_chunk(
        dt, A, documents_ptr, start, length, c, base, step, inside, CHUNK, HAS_SEGMENTS, REVERSE, True, EXACT
    )
    n_base = (base * n_groups + h // HEADS_PER_GROUP) * D_STATE
    n_offsets = step[:, None] * (n_groups * D_STATE) + n[None, :]
    state_base = (k.to(tl.int64) * N_HEADS + h) * HEAD_DIM * D_STATE
    weights = tl.zeros([CHUNK, CHUNK], dtype=tl.float32)
    for i in range(tl.cdiv(D_STATE, BLOCK_N)):
        n_mask = inside[:, None] & (i * BLOCK_N + n < D_STATE)[None, :]
        B = tl.load(B_ptr + n_base + i * BLOCK_N + n_offsets, mask=n_mask, other=0.0).to(x_ptr.dtype.element_ty)
        C = tl.load(C_ptr + n_base + i * BLOCK_N + n_offsets, mask=n_mask, other=0.0).to(x_ptr.dtype.element_ty)
        weights = tl.dot(C, tl.trans(B), weights, input_precision=PRECISION)
    weights *= _decay_between(high, low, number, CHUNK, HAS_SEGMENTS, True, EXACT)

    # A slice of channels at a time: through the state that enters, the one that leaves, and the tokens of the chunk.
    dweights = tl.zeros([CHUNK, CHUNK], dtype=tl.float32)
    da = tl.zeros_like(_wide(dt, EXACT))
    reading, through, direct = tl.zeros_like(da), tl.zeros_like(da), tl.zeros_like(da)
    for j in range(tl.cdiv(HEAD_DIM, BLOCK_P)):
        p = j * BLOCK_P + tl.arange(0, BLOCK_P)
        x_base = (base * N_HEADS + h) * HEAD_DIM
        x_offsets = step[:, None] * (N_HEADS * HEAD_DIM) + p[None, :]
        x_mask = inside[:, None] & (p < HEAD_DIM)[None, :]
        x = tl.load(x_ptr + x_base + x_offsets, mask=x_mask, other=0.0)
        dy = tl.load(dy_ptr + x_base + x_offsets, mask=x_mask, other=0.0)
        dweights = tl.dot(dy, tl.trans(x), dweights, input_precision=PRECISION)
        read = tl.zeros([CHUNK, BLOCK_P], dtype=tl.float32)
        dxdt = tl.zeros([CHUNK, BLOCK_P], dtype=tl.float32)
        state_offsets = p[:, None] * D_STATE + n[None, :]
        for i in range(tl.cdiv(D_STATE, BLOCK_N)):
            n_mask = inside[:, None] & (i * BLOCK_N + n < D_STATE)[None, :]
            B = tl.load(B_ptr + n_base + i * BLOCK_N + n_offsets, mask=n_mask, other=0.0).to(x.dtype)
            C = tl.load(C_ptr + n_base + i * BLOCK_N + n_offsets, mask=n_mask, other=0.0).to(x.dtype)
            state_mask = (p < HEAD_DIM)[:, None] & (i * BLOCK_N + n < D_STATE)[None, :]
            state = tl.load(states_ptr + state_base + i * BLOCK_N + state_offsets, mask=state_mask, other=0.0)
            dstate = tl.load(dstates_ptr + state_base + i * BLOCK_N + state_offsets, mask=state_mask, other=0.0)
            read = tl.dot(C, tl.trans(state), read, input_precision=PRECISION)
            dxdt = tl.dot(B, tl.trans(dstate), dxdt, input_precision=PRECISION)
        reading += _settled(tl.sum(_wide(read, EXACT) * _wide(dy, EXACT), axis=1))
        dxdt *= decay_out[:, None]
        through += _settled(tl.sum(_wide(dxdt, EXACT) * _wide(x, EXACT), axis=1))
        dxdt = tl.dot(tl.trans(weights.to(dy.dtype)), dy, dxdt, input_precision=PRECISION)
        direct += _settled(tl.sum(_wide(dxdt, EXACT) * _wide(x, EXACT), axis=1))
        dx = _wide(dxdt, EXACT) * dt[:, None]
        if D_DIMS == 1:
            dx += tl.load(D_ptr + h).to(tl.float32) * _wide(dy, EXACT)
        if D_DIMS == 2:
            D = tl.load(D_ptr + h * HEAD_DIM + p, mask=p < HEAD_DIM, other=0.0).to(tl.float32)
            dx += D[None, :] * _wide(dy, EXACT)
        tl.store(dx_ptr + x_base + x_offsets, dx.to(dx_ptr.dtype.element_ty), mask=x_mask)
        if (D_DIMS > 0) & (not HAS_Z):  # with a gate, its kernel has the gradient of y before that is rounded
            dD = tl.sum(_wide(dy, EXACT) * _wide(x, EXACT), axis=0).to(tl.float32)
            tl.store(dD_ptr + tl.program_id(0).to(tl.int64) * HEAD_DIM + p, dD, mask=p < HEAD_DIM)

    # Token r decays every pair (t, s) with s < r <= t. Their sum is taken over s, then over t, and not as row sums minus
    # column sums: those cancel only up to rounding, which one large dt would multiply into the gradient of A. (Tokens are
    # in descending order: s < r lies behind r.)
    dlog = dweights * weights * dt[None, :]
    if EXACT:
        dlog = dlog.to(tl.float64)
        before = tl.cumsum(dlog, axis=1, reverse=True) - dlog
    else:
        before = tl.dot(dlog, (q[:, None] > q[None, :]).to(tl.float32), input_precision="tf32")
    da += _settled(tl.sum(tl.where(q[:, None] <= q[None, :], before, 0.0), axis=0))
    through *= dt
    da += tl.cumsum(reading * decay_in, axis=0) + (tl.cumsum(through, axis=0, reverse=True) - through)

    # What the whole chunk lets through, when the registers of all else are free again.
    carried = tl.sum(tl.zeros_like(da), axis=0)
    for j in range(tl.cdiv(HEAD_DIM, BLOCK_P)):
        p = j * BLOCK_P + tl.arange(0, BLOCK_P)
        state_offsets = p[:, None] * D_STATE + n[None, :]
        for i in range(tl.cdiv(D_STATE, BLOCK_N)):
            state_mask = (p < HEAD_DIM)[:, None] & (i * BLOCK_N + n < D_STATE)[None, :]
            state = tl.load(states_ptr + state_base + i * BLOCK_N + state_offsets, mask=state_mask, other=0.0)
            dstate = tl.load(dstates_ptr + state_base + i * BLOCK_N + state_offsets, mask=state_mask, other=0.0)
            carried += tl.sum(tl.sum(_wide(state, EXACT) * _wide(dstate, EXACT), axis=1), axis=0)
    da += carried * carry
    ddt = (da * A + direct) * slope
    tl.store(ddt_ptr + base * N_HEADS + h + step * N_HEADS, ddt.to(ddt_ptr.dtype.element_ty), mask=inside)
    tl.store(dA_ptr + tl.program_id(0), tl.sum(tl.where(inside, da * dt, 0.0), axis=0))
    if HAS_BIAS:
        tl.store(dbias_ptr + tl.program_id(0), tl.sum(tl.where(inside, ddt, 0.0), axis=0))


@triton.jit
def _scores_gradient_kernel(
    dy_ptr, x_ptr, dt_ptr, A_ptr, bias_ptr, documents_ptr, cu_ptr, first_chunk_ptr, row_of_chunk_ptr, dscores_ptr,
    n_rows, n_tokens, dt_min, dt_max, n_parts,
    CHUNK: tl.constexpr, BLOCK_P: tl.constexpr, N_HEADS: tl.constexpr, HEADS_PER_GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr, HAS_SEGMENTS: tl.constexpr, HAS_BOUNDS: tl.constexpr, REVERSE: tl.constexpr,
    HAS_BIAS: tl.constexpr, SOFTPLUS: tl.constexpr, EXACT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The gradient of C B^T of one chunk, summed in registers over a part of a group's heads."""
    n_groups = N_HEADS // HEADS_PER_GROUP
    g = tl.program_id(0) % n_groups
    part = tl.program_id(0) // n_groups % n_parts
    k = tl.program_id(0) // n_groups // n_parts
    start, length, c = _chunk_of_row(cu_ptr, first_chunk_ptr, row_of_chunk_ptr, k, n_rows, n_tokens, CHUNK, HAS_BOUNDS)
    if c * CHUNK >= length:
        return
    base, step, inside = _tokens_of_chunk(start, length, c, CHUNK, REVERSE, True)
    q, p = tl.arange(0, CHUNK), tl.arange(0, BLOCK_P)
    x_mask = inside[:, None] & (p < HEAD_DIM)[None, :]
    dscores = tl.zeros([CHUNK, CHUNK], dtype=tl.float32)
    heads_per_part = tl.cdiv(HEADS_PER_GROUP, n_parts)
    first_head = g * HEADS_PER_GROUP + part * heads_per_part
    for h in range(first_head, tl.minimum(first_head + heads_per_part, (g + 1) * HEADS_PER_GROUP)):
        dt, _slope = _step_sizes(dt_ptr, bias_ptr, base, step, inside, h, dt_min, dt_max, N_HEADS, HAS_BIAS, SOFTPLUS)
        high, low, number, _decay_in, _decay_out, _carry = _decays_of_chunk(
            dt, tl.load(A_ptr + h).to(tl.float32), documents_ptr, start, length, c, base, step, inside,
            CHUNK, HAS_SEGMENTS, REVERSE, True, EXACT,
        )  # fmt: skip
        x_base = (base * N_HEADS + h) * HEAD_DIM
        x_offsets = step[:, None] * (N_HEADS * HEAD_DIM) + p[None, :]
        x = tl.load(x_ptr + x_base + x_offsets, mask=x_mask, other=0.0)
        dy = tl.load(dy_ptr + x_base + x_offsets, mask=x_mask, other=0.0)
        dweights = tl.dot(dy, tl.trans(x), input_precision=PRECISION)
        dscores += dweights * _decay_between(high, low, number, CHUNK, HAS_SEGMENTS, True, EXACT) * dt[None, :]
    own = tl.program_id(0).to(tl.int64) * CHUNK * CHUNK
    tl.store(dscores_ptr + own + q[:, None] * CHUNK + q[None, :], dscores.to(dscores_ptr.dtype.element_ty))


@triton.jit
def _group_gradient_kernel(
    dy_ptr, x_ptr, dt_ptr, A_ptr, B_ptr, C_ptr, bias_ptr, documents_ptr, cu_ptr, first_chunk_ptr, row_of_chunk_ptr,
    states_ptr, dstates_ptr, dscores_ptr, dB_ptr, dC_ptr,
    n_rows, n_tokens, n_all_tokens, dt_min, dt_max, n_parts,
    CHUNK: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_N: tl.constexpr, N_HEADS: tl.constexpr,
    HEADS_PER_GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, D_STATE: tl.constexpr,
    HAS_SEGMENTS: tl.constexpr, HAS_BOUNDS: tl.constexpr, REVERSE: tl.constexpr, HAS_BIAS: tl.constexpr,
    SOFTPLUS: tl.constexpr, EXACT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The gradients of B and C of one chunk and a slice of N, summed in registers over a part of a group's heads."""
    n_groups = N_HEADS // HEADS_PER_GROUP
    n_slices = tl.cdiv(D_STATE, BLOCK_N)
    g = tl.program_id(0) % n_groups
    n = tl.program_id(0) // n_groups % n_slices * BLOCK_N + tl.arange(0, BLOCK_N)
    part = tl.program_id(0) // n_groups // n_slices % n_parts
    k = tl.program_id(0) // n_groups // n_slices // n_parts
    start, length, c = _chunk_of_row(cu_ptr, first_chunk_ptr, row_of_chunk_ptr, k, n_rows, n_tokens, CHUNK, HAS_BOUNDS)
    if c * CHUNK >= length:
        return
    base, step, inside = _tokens_of_chunk(start, length, c, CHUNK, REVERSE, True)
    q, p = tl.arange(0, CHUNK), tl.arange(0, BLOCK_P)
    n_base = (base * n_groups + g) * D_STATE
    n_offsets = step[:, None] * (n_groups * D_STATE) + n[None, :]
    n_mask = inside[:, None] & (n < D_STATE)[None, :]
    x_mask = inside[:, None] & (p < HEAD_DIM)[None, :]
    state_mask = (p < HEAD_DIM)[:, None] & (n < D_STATE)[None, :]
    dB = tl.zeros([CHUNK, BLOCK_N], dtype=tl.float32)
    dC = tl.zeros([CHUNK, BLOCK_N], dtype=tl.float32)
    heads_per_part = tl.cdiv(HEADS_PER_GROUP, n_parts)
    first_head = g * HEADS_PER_GROUP + part * heads_per_part
    for h in range(first_head, tl.minimum(first_head + heads_per_part, (g + 1) * HEADS_PER_GROUP)):
        A = tl.load(A_ptr + h).to(tl.float32)
        dt, _slope = _step_sizes(dt_ptr, bias_ptr, base, step, inside, h, dt_min, dt_max, N_HEADS, HAS_BIAS, SOFTPLUS)
        _high, _low, _number, decay_in, decay_out, _carry = _decays_of_chunk(
            dt, A, documents_ptr, start, length, c, base, step, inside, CHUNK, HAS_SEGMENTS, REVERSE, True, EXACT
        )
        x_base = (base * N_HEADS + h) * HEAD_DIM
        x_offsets = step[:, None] * (N_HEADS * HEAD_DIM) + p[None, :]
        state_base = (k.to(tl.int64) * N_HEADS + h) * HEAD_DIM * D_STATE
        state_offsets = p[:, None] * D_STATE + n[None, :]
        dy = tl.load(dy_ptr + x_base + x_offsets, mask=x_mask, other=0.0)
        state = tl.load(states_ptr + state_base + state_offsets, mask=state_mask, other=0.0)
        weighted_dy = (dy.to(tl.float32) * decay_in[:, None]).to(dy.dtype)
        dC = tl.dot(weighted_dy, state, dC, input_precision=PRECISION)
        x = tl.load(x_ptr + x_base + x_offsets, mask=x_mask, other=0.0)
        dstate = tl.load(dstates_ptr + state_base + state_offsets, mask=state_mask, other=0.0)
        weighted_x = (x.to(tl.float32) * (decay_out * dt)[:, None]).to(x.dtype)
        dB = tl.dot(weighted_x, dstate, dB, input_precision=PRECISION)
    own = ((k * n_parts + part) * n_groups + g).to(tl.int64) * CHUNK * CHUNK
    dscores = tl.load(dscores_ptr + own + q[:, None] * CHUNK + q[None, :])
    B = tl.load(B_ptr + n_base + n_offsets, mask=n_mask, other=0.0).to(dscores.dtype)
    C = tl.load(C_ptr + n_base + n_offsets, mask=n_mask, other=0.0).to(dscores.dtype)
    dC = tl.dot(dscores, B, dC, input_precision=PRECISION)
    dB = tl.dot(tl.trans(dscores), C, dB, input_precision=PRECISION)
    mine = part.to(tl.int64) * n_all_tokens * n_groups * D_STATE + n_base
    tl.store(dC_ptr + mine + n_offsets, dC.to(dC_ptr.dtype.element_ty), mask=n_mask)
    tl.store(dB_ptr + mine + n_offsets, dB.to(dB_ptr.dtype.element_ty), mask=n_mask)


class _Launcher:
    """The inputs made contiguous, and the arguments that the kernels share, for chunks of one size."""

    def __init__(self, inputs: ScanInputs, options: ScanOptions, chunk: int) -> None:
        self.inputs, self.options, self.chunk = inputs, options, chunk
        self.x, self.dt, self.A, self.B, self.C = (tensor.contiguous() for tensor in inputs[:5])
        D, z, bias, initial, segments, bounds = (None if tensor is None else tensor.contiguous() for tensor in inputs[5:])
        # A kernel never reads what was not given: any pointer will do there.
        self.D, self.z, self.bias, self.initial, self.bounds = (self.x if t is None else t for t in (D, z, bias, initial, bounds))
        self.documents = self.x if segments is None else number_documents(segments)
        self.n_chunks = largest_number_of_chunks(inputs, chunk)
        self.first_chunk, self.row_of_chunk = self.x, self.x
        if bounds is not None:
            self.first_chunk = torch.zeros_like(bounds)
            self.first_chunk[1:] = ((bounds.diff() + (chunk - 1)) // chunk).cumsum(0)
            numbers = torch.arange(self.n_chunks, dtype=torch.int32, device=bounds.device)
            self.row_of_chunk = torch.searchsorted(self.first_chunk[1:], numbers, right=True, out_int32=True)
        _, self.n_tokens, self.n_heads, self.head_dim = self.x.shape
        self.n_groups, self.d_state = self.B.shape[2:]
        self.n_rows = inputs.n_states
        self.limits = (options.dt_min, options.dt_max)
        self.D_dims = 0 if inputs.D_H is None else inputs.D_H.dim()

    def constants(self, kernel: str) -> dict[str, Any]:
        """Return the compile-time constants and launch options of `kernel` that do not depend on what it is used for."""
        found = triton_options(kernel, self.inputs, self.options)
        largest_p, largest_n = found.pop("BLOCK_P", 128), found.pop("BLOCK_N", 256)
        return {
            **found,
            "CHUNK": self.chunk,
            "BLOCK_P": min(largest_p, max(16, triton.next_power_of_2(self.head_dim))),
            "BLOCK_N": min(largest_n, max(16, triton.next_power_of_2(self.d_state))),
            # Known to the compiler, so that the addresses of a thread differ by constants: offsets take registers.
            "N_HEADS": self.n_heads,
            "HEAD_DIM": self.head_dim,
            "D_STATE": self.d_state,
            "HEADS_PER_GROUP": self.n_heads // self.n_groups,
            "HAS_SEGMENTS": self.inputs.segments_BT is not None,
            "HAS_BOUNDS": self.inputs.cu_seqlens is not None,
            "REVERSE": self.options.reverse,
            "HAS_BIAS": self.inputs.dt_bias_H is not None,
            "SOFTPLUS": self.options.dt_softplus,
            "EXACT": self.x.dtype == torch.float32,
            "PRECISION": precision(self.x.dtype),
        }

    def parts(self) -> int:
        """Into how many programs the heads of a group are divided, where chunks and groups alone are too few."""
        return max(1, min(self.n_heads // self.n_groups, GRADIENT_PROGRAMS // max(1, self.n_chunks * self.n_groups)))

    def walk(self, x: Tensor, other: Tensor, first: Tensor | None, states: Tensor, last: Tensor, backward: bool) -> None:
        """Write the state that each chunk gets to `states`, and the one that is handed on to `last`."""
        constants = self.constants("walk")
        n_slices = triton.cdiv(self.head_dim, constants["BLOCK_P"]) * triton.cdiv(self.d_state, constants["BLOCK_N"])
        if last.numel():
            _walk_kernel[(self.n_heads * n_slices * self.n_rows,)](
                x, self.dt, self.A, other, self.bias, self.x if first is None else first, self.documents,
                self.bounds, self.first_chunk, states, last, self.n_tokens, *self.limits,
                HAS_FIRST=first is not None, BACKWARD=backward, **constants,
            )  # fmt: skip


def forward(inputs: ScanInputs, options: ScanOptions) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return (y_BTHP, final_state_BHPN, the states that enter the chunks kHPN, y before the gate), the last two if kept."""
    x = inputs.x_BTHP
    (n_heads, head_dim), d_state = x.shape[2:], inputs.B_BTGN.shape[3]
    kept, is_kept = kept_states(inputs, options, "triton"), options.is_kept
    # A state of more than 128 numbers a channel would leave the fused kernel no registers, nor a gate beside documents.
    fits = d_state <= 128 and (inputs.z_BTHP is None or inputs.segments_BT is None)
    is_fused = fits and inputs.n_states * n_heads >= FUSED_PROGRAMS
    kernel = "fused" if is_fused else "output"
    on = _Launcher(inputs, options, triton_options("gradient" if is_kept else kernel, inputs, options)["CHUNK"])
    y = torch.empty_like(on.x)
    ungated = torch.empty_like(y) if is_kept and inputs.z_BTHP is not None else y.new_empty((0,))
    final = torch.empty((inputs.n_states, n_heads, head_dim, d_state), dtype=torch.float32, device=x.device)
    if final.numel() == 0:
        return y, final, kept, ungated
    constants = on.constants(kernel)
    flags = {"D_DIMS": on.D_dims, "HAS_Z": inputs.z_BTHP is not None, "KEEP": is_kept}
    if is_fused:
        _fused_kernel[(n_heads * triton.cdiv(head_dim, constants["BLOCK_P"]) * on.n_rows,)](
            on.x, on.dt, on.A, on.B, on.C, on.D, on.z, on.bias, on.initial, on.documents, on.bounds, on.first_chunk,
            y, ungated, kept, final, on.n_tokens, *on.limits,
            HAS_INITIAL=inputs.initial_state_BHPN is not None, **flags, **constants,
        )  # fmt: skip
        return y, final, kept, ungated
    states = kept if is_kept else torch.empty((on.n_chunks, n_heads, head_dim, d_state), dtype=x.dtype, device=x.device)
    on.walk(on.x, on.B, None if inputs.initial_state_BHPN is None else on.initial, states, final, backward=False)
    n_parts = on.parts()
    _output_kernel[(on.n_groups * n_parts * on.n_chunks,)](
        on.x, on.dt, on.A, on.B, on.C, on.D, on.z, on.bias, on.documents, on.bounds, on.first_chunk, on.row_of_chunk,
        states, y, ungated, on.n_rows, on.n_tokens, *on.limits, n_parts, **flags, **constants,
    )  # fmt: skip
    return y, final, kept, ungated


def backward(
    dy_BTHP: Tensor, dfinal_BHPN: Tensor, inputs: ScanInputs, kept: Tensor, ungated: Tensor, options: ScanOptions
) -> tuple[Tensor | None, ...]:
    """Return the gradients of the differentiable inputs, None for those that were not given."""
    on = _Launcher(inputs, options, triton_options("gradient", inputs, options)["CHUNK"])
    dy, dz = dy_BTHP.contiguous(), None
    has_z = inputs.z_BTHP is not None
    n_all_tokens = dy.shape[0] * on.n_tokens
    n_parts_D = 0 if on.D_dims == 0 else triton.cdiv(n_all_tokens, _GATE_TOKENS) if has_z else on.n_chunks
    # Chunks that packed documents do not have add nothing.
    dD = torch.zeros((n_parts_D, on.n_heads, on.head_dim), dtype=torch.float32, device=dy.device)
    if has_z:
        dinner, dz = torch.empty_like(dy), torch.empty_like(on.z)
        if dy.numel():
            _ungate_kernel[(triton.cdiv(n_all_tokens, _GATE_TOKENS) * on.n_heads,)](
                dy, on.x, on.z, ungated, dinner, dz, dD, n_all_tokens,
                ROWS=_GATE_TOKENS, BLOCK_P=triton.next_power_of_2(on.head_dim), N_HEADS=on.n_heads, HEAD_DIM=on.head_dim,
                D_DIMS=on.D_dims, EXACT=on.x.dtype == torch.float32,
            )  # fmt: skip
        dy = dinner
    dstates = torch.empty(kept.shape, dtype=on.x.dtype, device=on.x.device)
    dinitial = torch.empty_like(dfinal_BHPN if inputs.initial_state_BHPN is None else on.initial)
    on.walk(dy, on.C, dfinal_BHPN.contiguous(), dstates, dinitial, backward=True)

    n_parts, flags = on.parts(), on.constants("gradient")
    dx, ddt = torch.empty_like(on.x), torch.empty_like(on.dt)
    parts = [t[None] if n_parts == 1 else t.new_empty((n_parts, *t.shape), dtype=torch.float32) for t in (on.B, on.C)]
    dB, dC = (torch.empty_like(part) for part in parts)
    dscores = torch.empty((on.n_chunks, n_parts, on.n_groups, on.chunk, on.chunk), dtype=on.x.dtype, device=dx.device)
    wide = torch.float64 if flags["EXACT"] else torch.float32
    dA, dbias = (torch.zeros((on.n_chunks, on.n_heads), dtype=wide, device=dx.device) for _ in range(2))
    if dx.numel():
        _gradient_kernel[(on.n_heads * on.n_chunks,)](
            dy, on.x, on.dt, on.A, on.B, on.C, on.D, on.bias, on.documents, on.bounds, on.first_chunk, on.row_of_chunk,
            kept, dstates, dx, ddt, dA, dD, dbias, on.n_rows, on.n_tokens, *on.limits,
            D_DIMS=on.D_dims, HAS_Z=has_z, **flags,
        )  # fmt: skip
        flags = on.constants("scores_gradient")
        del flags["BLOCK_N"], flags["D_STATE"]
        _scores_gradient_kernel[(on.n_groups * n_parts * on.n_chunks,)](
            dy, on.x, on.dt, on.A, on.bias, on.documents, on.bounds, on.first_chunk, on.row_of_chunk, dscores,
            on.n_rows, on.n_tokens, *on.limits, n_parts, **flags,
        )  # fmt: skip
        flags = on.constants("group_gradient")
        n_slices = triton.cdiv(on.d_state, flags["BLOCK_N"])
        _group_gradient_kernel[(on.n_groups * n_slices * n_parts * on.n_chunks,)](
            dy, on.x, on.dt, on.A, on.B, on.C, on.bias, on.documents, on.bounds, on.first_chunk, on.row_of_chunk,
            kept, dstates, dscores, dB, dC, on.n_rows, on.n_tokens, n_all_tokens, *on.limits, n_parts,
            **flags,
        )  # fmt: skip
    dB, dC = (d[0] if n_parts == 1 else d.sum(dim=0).to(t.dtype) for d, t in ((dB, on.B), (dC, on.C)))
    dD_H = None if inputs.D_H is None else _summed(dD if on.D_dims == 2 else dD.sum(dim=2, dtype=torch.float64), inputs.D_H)
    return (
        dx,
        ddt,
        _summed(dA, on.A),
        dB,
        dC,
        dD_H,
        dz,
        None if inputs.dt_bias_H is None else _summed(dbias, inputs.dt_bias_H),
        None if inputs.initial_state_BHPN is None else dinitial,
    )


def _summed(parts: Tensor, like: Tensor) -> Tensor:
    return parts.sum(dim=0, dtype=torch.float64).to(like.dtype)
