"""The chunked Mamba-2 recurrence in Triton: forward and backward, every chunk and head in parallel.

Forward: what each chunk adds to the state; the states passed from chunk to chunk; the output of each chunk. Backward
is the same three steps in reverse, with one kernel for all gradients of a chunk. No atomics: every run gives the same
bits. Gradients of B and C are written per head and summed over the heads of a group by torch.
Source: Dao and Gu 2024, "Transformers are SSMs", section 6.
"""

# Triton reads the annotations of a kernel: only tl.constexpr may stand there.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from tilth.kernels.documents import number_documents
from tilth.kernels.ssd_scan.inputs import ScanInputs

_STATE_BLOCK = 256
# The gradient kernel holds the most: with 8 warps sm_90 does not spill (in 16-bit types; in float32 it does).
GRADIENT_OPTIONS = {"num_warps": 8, "num_stages": 1}


def forward(inputs: ScanInputs, chunk_size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return (y_BTHP, final_state_BHPN, the states that enter the chunks BcHPN)."""
    x, dt, A, B, C = (t.contiguous() for t in inputs[:5])
    documents = _documents(inputs.segments_BT, x)
    sizes, constants, options = _configure(x, B, inputs.segments_BT, chunk_size)
    y = torch.empty_like(x)
    added_BcHPN, carry_BcH = _added(x, dt, A, B, documents, sizes, {**constants, "TOWARDS_END": True}, options)
    states_BcHPN, final_BHPN = _pass(added_BcHPN, carry_BcH, inputs.initial_state_BHPN, reverse=False)
    if x.numel():
        _output_kernel[_grid(x, chunk_size)](
            x, dt, A, B, C, x if inputs.D_H is None else inputs.D_H.contiguous(), documents, states_BcHPN, y,
            *sizes, HAS_D=inputs.D_H is not None, **constants, **options,
        )  # fmt: skip
    return y, final_BHPN, states_BcHPN


def backward(
    dy_BTHP: Tensor, dfinal_BHPN: Tensor, inputs: ScanInputs, states_BcHPN: Tensor, chunk_size: int
) -> tuple[Tensor, ...]:
    """Return the gradients of x, dt, A, B, C, D and the initial state (the last two empty where not given)."""
    dy, x, dt, A, B, C = (t.contiguous() for t in (dy_BTHP, *inputs[:5]))
    documents = _documents(inputs.segments_BT, x)
    sizes, constants, options = _configure(x, B, inputs.segments_BT, chunk_size)
    n_batch, n_tokens, n_heads = dt.shape
    n_groups, d_state = B.shape[2:]
    read_BcHPN, carry_BcH = _added(dy, dt, A, C, documents, sizes, {**constants, "TOWARDS_END": False}, options)
    dleaving_BcHPN, dinitial_BHPN = _pass(read_BcHPN, carry_BcH, dfinal_BHPN, reverse=True)
    dx, ddt = torch.empty_like(x), torch.empty_like(dt)
    dB_BTHN = torch.empty((n_batch, n_tokens, n_heads, d_state), dtype=torch.float32, device=x.device)
    dC_BTHN = torch.empty_like(dB_BTHN)
    dA_BcH, dD_BcH = torch.empty_like(carry_BcH), torch.empty_like(carry_BcH)
    if x.numel():
        _gradient_kernel[_grid(x, chunk_size)](
            dy, x, dt, A, B, C, x if inputs.D_H is None else inputs.D_H.contiguous(), documents, states_BcHPN, dleaving_BcHPN,
            dx, ddt, dB_BTHN, dC_BTHN, dA_BcH, dD_BcH,
            *sizes, HAS_D=inputs.D_H is not None, **gradient_constants(constants), **GRADIENT_OPTIONS,
        )  # fmt: skip
    by_group = (n_batch, n_tokens, n_groups, n_heads // n_groups, d_state)
    dD_H = x.new_empty((0,)) if inputs.D_H is None else dD_BcH.sum(dim=(0, 1)).to(inputs.D_H.dtype)
    dinitial = x.new_empty((0,)) if inputs.initial_state_BHPN is None else dinitial_BHPN.to(inputs.initial_state_BHPN.dtype)
    dB = dB_BTHN.reshape(by_group).sum(dim=3).to(B.dtype)
    dC = dC_BTHN.reshape(by_group).sum(dim=3).to(C.dtype)
    return dx, ddt, dA_BcH.sum(dim=(0, 1)).to(A.dtype), dB, dC, dD_H, dinitial


@triton.jit
def _decays(
    dt_ptr, A, documents_ptr, b, c, h, n_tokens, n_heads,
    CHUNK: tl.constexpr, BLOCK_Q: tl.constexpr, HAS_SEGMENTS: tl.constexpr,
):  # fmt: skip
    """Return dt, the running log-decay as a high and a low float32, its total, documents of the tokens, masks.

    The running sum is taken in float64: after one very large dt, differences of a float32 sum would be noise.
    """
    q = tl.arange(0, BLOCK_Q)
    t = c * CHUNK + q
    inside = (q < CHUNK) & (t < n_tokens)
    dt = tl.load(dt_ptr + (b * n_tokens + t) * n_heads + h, mask=inside, other=0.0).to(tl.float32)
    a = tl.cumsum(dt.to(tl.float64) * A.to(tl.float64), axis=0)
    total = tl.sum(dt.to(tl.float64) * A.to(tl.float64), axis=0)
    high = a.to(tl.float32)
    low = (a - high.to(tl.float64)).to(tl.float32)
    out = (total - a).to(tl.float32)
    reached = inside
    reaching = inside
    number = q
    if HAS_SEGMENTS:
        number = tl.load(documents_ptr + b * n_tokens + t, mask=inside, other=-1)
        last = tl.minimum(c * CHUNK + CHUNK, n_tokens) - 1
        entering = tl.load(documents_ptr + b * n_tokens + tl.maximum(c * CHUNK - 1, 0), mask=c > 0, other=0)
        leaving = tl.load(documents_ptr + b * n_tokens + last)
        reached = reached & (number == entering)
        reaching = reaching & (number == leaving)
        is_carried = entering == leaving
        carry = tl.where(is_carried, tl.exp(total.to(tl.float32)), 0.0)
    else:
        carry = tl.exp(total.to(tl.float32))
    decay_in = tl.exp(tl.where(reached, high, float("-inf")))
    decay_out = tl.exp(tl.where(reaching, out, float("-inf")))
    return dt, high, low, number, decay_in, decay_out, carry


@triton.jit
def _decay_between(high, low, number, BLOCK_Q: tl.constexpr, HAS_SEGMENTS: tl.constexpr):
    """Return exp(a_t - a_s) for s <= t in the same document, else 0; masked before exp, which would overflow above."""
    q = tl.arange(0, BLOCK_Q)
    seen = q[:, None] >= q[None, :]
    if HAS_SEGMENTS:
        seen = seen & (number[:, None] == number[None, :])
    log_decay = (high[:, None] - high[None, :]) + (low[:, None] - low[None, :])
    return tl.exp(tl.where(seen, log_decay, float("-inf")))


@triton.jit
def _added_kernel(
    x_ptr, dt_ptr, A_ptr, B_ptr, documents_ptr, added_ptr, carry_ptr, n_tokens, n_heads, head_dim, d_state,
    CHUNK: tl.constexpr, HEADS_PER_GROUP: tl.constexpr, HAS_SEGMENTS: tl.constexpr, TOWARDS_END: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_N: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """x^T (w B) of one chunk and head: w carries each token to the end (forward), or from the start (backward)."""
    program = tl.program_id(0).to(tl.int64)
    n_chunks = tl.cdiv(n_tokens, CHUNK)
    h = program % n_heads
    c = (program // n_heads % n_chunks).to(tl.int32)
    b = program // n_heads // n_chunks
    A = tl.load(A_ptr + h).to(tl.float32)
    dt, _high, _low, _number, decay_in, decay_out, carry = _decays(
        dt_ptr, A, documents_ptr, b, c, h, n_tokens, n_heads, CHUNK, BLOCK_Q, HAS_SEGMENTS
    )
    if TOWARDS_END:
        weight = decay_out * dt
    else:
        weight = decay_in
    q, p, n = tl.arange(0, BLOCK_Q), tl.arange(0, BLOCK_P), tl.arange(0, BLOCK_N)
    t = c * CHUNK + q
    inside = (q < CHUNK) & (t < n_tokens)
    token = b * n_tokens + t
    n_groups = n_heads // HEADS_PER_GROUP
    x_offsets = (token[:, None] * n_heads + h) * head_dim + p[None, :]
    x = tl.load(x_ptr + x_offsets, mask=inside[:, None] & (p < head_dim)[None, :], other=0.0)
    B_offsets = (token[:, None] * n_groups + h // HEADS_PER_GROUP) * d_state + n[None, :]
    B = tl.load(B_ptr + B_offsets, mask=inside[:, None] & (n < d_state)[None, :], other=0.0)
    weighted_B = (B.to(tl.float32) * weight[:, None]).to(x.dtype)
    added = tl.dot(tl.trans(x), weighted_B, input_precision=PRECISION)
    state_offsets = (program * head_dim + p[:, None]) * d_state + n[None, :]
    tl.store(added_ptr + state_offsets, added, mask=(p < head_dim)[:, None] & (n < d_state)[None, :])
    tl.store(carry_ptr + program, carry)


@triton.jit
def _pass_kernel(
    added_ptr, carry_ptr, first_ptr, entering_ptr, leaving_ptr, n_chunks, n_heads, state_size,
    HAS_FIRST: tl.constexpr, REVERSE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Pass the states of one row and head from chunk to chunk: S' = carry S + added; each chunk keeps the S it gets."""
    n_blocks = tl.cdiv(state_size, BLOCK)
    bh = (tl.program_id(0) // n_blocks).to(tl.int64)
    b, h = bh // n_heads, bh % n_heads
    i = tl.program_id(0) % n_blocks * BLOCK + tl.arange(0, BLOCK)
    inside = i < state_size
    state = tl.zeros([BLOCK], dtype=tl.float32)
    if HAS_FIRST:
        state = tl.load(first_ptr + bh * state_size + i, mask=inside, other=0.0).to(tl.float32)
    for step in range(n_chunks):
        c = step
        if REVERSE:
            c = n_chunks - 1 - step
        chunk = (b * n_chunks + c) * n_heads + h
        tl.store(entering_ptr + chunk * state_size + i, state, mask=inside)
        added = tl.load(added_ptr + chunk * state_size + i, mask=inside, other=0.0)
        state = tl.load(carry_ptr + chunk) * state + added
    tl.store(leaving_ptr + bh * state_size + i, state, mask=inside)


@triton.jit
def _output_kernel(
    x_ptr, dt_ptr, A_ptr, B_ptr, C_ptr, D_ptr, documents_ptr, states_ptr, y_ptr, n_tokens, n_heads, head_dim, d_state,
    CHUNK: tl.constexpr, HEADS_PER_GROUP: tl.constexpr, HAS_SEGMENTS: tl.constexpr, HAS_D: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_N: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0).to(tl.int64)
    n_chunks = tl.cdiv(n_tokens, CHUNK)
    h = program % n_heads
    c = (program // n_heads % n_chunks).to(tl.int32)
    b = program // n_heads // n_chunks
    A = tl.load(A_ptr + h).to(tl.float32)
    dt, high, low, number, decay_in, _decay_out, _carry = _decays(
        dt_ptr, A, documents_ptr, b, c, h, n_tokens, n_heads, CHUNK, BLOCK_Q, HAS_SEGMENTS
    )
    q, p, n = tl.arange(0, BLOCK_Q), tl.arange(0, BLOCK_P), tl.arange(0, BLOCK_N)
    t = c * CHUNK + q
    inside = (q < CHUNK) & (t < n_tokens)
    token = b * n_tokens + t
    x_mask = inside[:, None] & (p < head_dim)[None, :]
    n_mask = inside[:, None] & (n < d_state)[None, :]
    x_offsets = (token[:, None] * n_heads + h) * head_dim + p[None, :]
    n_offsets = (token[:, None] * (n_heads // HEADS_PER_GROUP) + h // HEADS_PER_GROUP) * d_state + n[None, :]
    x = tl.load(x_ptr + x_offsets, mask=x_mask, other=0.0)
    B = tl.load(B_ptr + n_offsets, mask=n_mask, other=0.0).to(x.dtype)
    C = tl.load(C_ptr + n_offsets, mask=n_mask, other=0.0).to(x.dtype)
    state_offsets = (program * head_dim + p[:, None]) * d_state + n[None, :]
    state_mask = (p < head_dim)[:, None] & (n < d_state)[None, :]
    state = tl.load(states_ptr + state_offsets, mask=state_mask, other=0.0).to(x.dtype)

    y = tl.dot(C, tl.trans(state), input_precision=PRECISION) * decay_in[:, None]
    scores = tl.dot(C, tl.trans(B), input_precision=PRECISION)
    weights = scores * _decay_between(high, low, number, BLOCK_Q, HAS_SEGMENTS) * dt[None, :]
    y += tl.dot(weights.to(x.dtype), x, input_precision=PRECISION)
    if HAS_D:
        y += tl.load(D_ptr + h).to(tl.float32) * x.to(tl.float32)
    tl.store(y_ptr + x_offsets, y.to(y_ptr.dtype.element_ty), mask=x_mask)


@triton.jit
def _gradient_kernel(
    dy_ptr, x_ptr, dt_ptr, A_ptr, B_ptr, C_ptr, D_ptr, documents_ptr, states_ptr, dleaving_ptr,
    dx_ptr, ddt_ptr, dB_ptr, dC_ptr, dA_ptr, dD_ptr, n_tokens, n_heads, head_dim, d_state,
    CHUNK: tl.constexpr, HEADS_PER_GROUP: tl.constexpr, HAS_SEGMENTS: tl.constexpr, HAS_D: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_N: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """All gradients of one chunk and head, from the state that enters it and the gradient of the one that leaves it."""
    program = tl.program_id(0).to(tl.int64)
    n_chunks = tl.cdiv(n_tokens, CHUNK)
    h = program % n_heads
    c = (program // n_heads % n_chunks).to(tl.int32)
    b = program // n_heads // n_chunks
    A = tl.load(A_ptr + h).to(tl.float32)
    dt, high, low, number, decay_in, decay_out, carry = _decays(
        dt_ptr, A, documents_ptr, b, c, h, n_tokens, n_heads, CHUNK, BLOCK_Q, HAS_SEGMENTS
    )
    q, p = tl.arange(0, BLOCK_Q), tl.arange(0, BLOCK_P)
    t = c * CHUNK + q
    inside = (q < CHUNK) & (t < n_tokens)
    token = b * n_tokens + t
    x_mask = inside[:, None] & (p < head_dim)[None, :]
    x_offsets = (token[:, None] * n_heads + h) * head_dim + p[None, :]
    n_offsets = (token[:, None] * (n_heads // HEADS_PER_GROUP) + h // HEADS_PER_GROUP) * d_state
    x = tl.load(x_ptr + x_offsets, mask=x_mask, other=0.0)
    dy = tl.load(dy_ptr + x_offsets, mask=x_mask, other=0.0)
    scores = tl.zeros([BLOCK_Q, BLOCK_Q], dtype=tl.float32)
    for start_n in range(0, d_state, BLOCK_N):
        n = start_n + tl.arange(0, BLOCK_N)
        n_mask = inside[:, None] & (n < d_state)[None, :]
        B = tl.load(B_ptr + n_offsets + n[None, :], mask=n_mask, other=0.0).to(x.dtype)
        C = tl.load(C_ptr + n_offsets + n[None, :], mask=n_mask, other=0.0).to(x.dtype)
        scores += tl.dot(C, tl.trans(B), input_precision=PRECISION)

    # Through the tokens of the same chunk.
    decay = _decay_between(high, low, number, BLOCK_Q, HAS_SEGMENTS)
    dxdt = tl.dot(tl.trans((scores * decay).to(dy.dtype)), dy, input_precision=PRECISION)
    dscores = tl.dot(dy, tl.trans(x), input_precision=PRECISION) * decay * dt[None, :]
    # Token t decays every pair (u, s) with s < t <= u. Their sum is taken over s, then over u, and not as row sums minus
    # column sums: those cancel only up to rounding, which one large dt would multiply into the gradient of A.
    dlog = dscores * scores
    before = tl.cumsum(dlog, axis=1) - dlog
    da_inside = tl.sum(tl.where(q[:, None] >= q[None, :], before, 0.0), axis=0)
    dscores = dscores.to(x.dtype)

    # Through the state that enters and the one that leaves, a slice of N at a time: registers are what runs out.
    into_state = tl.zeros([BLOCK_Q, BLOCK_P], dtype=tl.float32)
    da_read = tl.zeros([BLOCK_Q], dtype=tl.float32)
    carried_N = tl.zeros([BLOCK_N], dtype=tl.float32)
    for start_n in range(0, d_state, BLOCK_N):
        n = start_n + tl.arange(0, BLOCK_N)
        n_mask = inside[:, None] & (n < d_state)[None, :]
        B = tl.load(B_ptr + n_offsets + n[None, :], mask=n_mask, other=0.0).to(x.dtype)
        C = tl.load(C_ptr + n_offsets + n[None, :], mask=n_mask, other=0.0).to(x.dtype)
        state_offsets = (program * head_dim + p[:, None]) * d_state + n[None, :]
        state_mask = (p < head_dim)[:, None] & (n < d_state)[None, :]
        head_offsets = (token[:, None] * n_heads + h) * d_state + n[None, :]
        state = tl.load(states_ptr + state_offsets, mask=state_mask, other=0.0)
        dstate = tl.load(dleaving_ptr + state_offsets, mask=state_mask, other=0.0)
        carried_N += tl.sum(state * dstate, axis=0)
        dC = tl.dot(dy, state.to(dy.dtype), input_precision=PRECISION) * decay_in[:, None]
        da_read += tl.sum(dC * C.to(tl.float32), axis=1)
        dC += tl.dot(dscores, B, input_precision=PRECISION)
        tl.store(dC_ptr + head_offsets, dC, mask=n_mask)
        dB = tl.dot(x, dstate.to(x.dtype), input_precision=PRECISION) * (decay_out * dt)[:, None]
        dB += tl.dot(tl.trans(dscores), C, input_precision=PRECISION)
        tl.store(dB_ptr + head_offsets, dB, mask=n_mask)
        into_state += tl.dot(B, tl.trans(dstate.to(B.dtype)), input_precision=PRECISION)
    into_state = into_state * decay_out[:, None]
    through = tl.sum(into_state * x.to(tl.float32), axis=1) * dt
    dxdt += into_state
    carried = carry * tl.sum(carried_N, axis=0)

    # A running sum is differentiated by the sum from the other end; what goes to the end starts after its own token.
    da = da_inside + tl.cumsum(da_read, axis=0, reverse=True) + (tl.cumsum(through, axis=0) - through) + carried
    ddt = da * A + tl.sum(dxdt * x.to(tl.float32), axis=1)
    tl.store(ddt_ptr + token * n_heads + h, ddt.to(ddt_ptr.dtype.element_ty), mask=inside)
    tl.store(dA_ptr + program, tl.sum(tl.where(inside, da * dt, 0.0), axis=0))
    dx = dxdt * dt[:, None]
    if HAS_D:
        dx += tl.load(D_ptr + h).to(tl.float32) * dy.to(tl.float32)
        tl.store(dD_ptr + program, tl.sum(tl.sum(dy.to(tl.float32) * x.to(tl.float32), axis=1), axis=0))
    tl.store(dx_ptr + x_offsets, dx.to(dx_ptr.dtype.element_ty), mask=x_mask)


def _added(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    documents: Tensor,
    sizes: tuple[int, int, int, int],
    constants: dict[str, int | bool | str],
    options: dict[str, int],
) -> tuple[Tensor, Tensor]:
    """Return what each chunk adds to the state (B, c, H, P, N) and how much of the state it lets through (B, c, H)."""
    n_tokens, n_heads, head_dim, d_state = sizes
    n_chunks = triton.cdiv(n_tokens, int(constants["CHUNK"]))
    shape = (x.shape[0], n_chunks, n_heads)
    added = torch.empty((*shape, head_dim, d_state), dtype=torch.float32, device=x.device)
    carry = torch.empty(shape, dtype=torch.float32, device=x.device)
    if x.numel():
        _added_kernel[(carry.numel(),)](x, dt, A, B, documents, added, carry, *sizes, **constants, **options)
    return added, carry


def _pass(added_BcHPN: Tensor, carry_BcH: Tensor, first_BHPN: Tensor | None, reverse: bool) -> tuple[Tensor, Tensor]:
    """Return the state that each chunk gets, and the one that the last chunk (the first if `reverse`) hands on."""
    n_batch, n_chunks, n_heads, head_dim, d_state = added_BcHPN.shape
    received = torch.empty_like(added_BcHPN)
    handed_on = torch.empty((n_batch, n_heads, head_dim, d_state), dtype=torch.float32, device=received.device)
    first = added_BcHPN if first_BHPN is None else first_BHPN.contiguous()
    state_size = head_dim * d_state
    if handed_on.numel():
        _pass_kernel[(triton.cdiv(state_size, _STATE_BLOCK) * n_batch * n_heads,)](
            added_BcHPN, carry_BcH, first, received, handed_on, n_chunks, n_heads, state_size,
            HAS_FIRST=first_BHPN is not None, REVERSE=reverse, BLOCK=_STATE_BLOCK, num_warps=2,
        )  # fmt: skip
    return received, handed_on


def _configure(
    x: Tensor, B: Tensor, segments_BT: Tensor | None, chunk_size: int
) -> tuple[tuple[int, int, int, int], dict[str, int | bool | str], dict[str, int]]:
    """Return the sizes, the compile-time constants and the launch options that the chunk kernels share."""
    _, n_tokens, n_heads, head_dim = x.shape
    n_groups, d_state = B.shape[2:]
    if chunk_size > 128 or head_dim > 128 or d_state > 256:
        raise ValueError(
            f"the Triton ssd_scan holds chunk_size <= 128, P <= 128 and N <= 256; got {chunk_size}, {head_dim}, {d_state}"
        )
    constants: dict[str, int | bool | str] = {
        "CHUNK": chunk_size,
        "HEADS_PER_GROUP": n_heads // n_groups,
        "HAS_SEGMENTS": segments_BT is not None,
        "BLOCK_Q": max(16, triton.next_power_of_2(chunk_size)),
        "BLOCK_P": max(16, triton.next_power_of_2(head_dim)),
        "BLOCK_N": max(16, triton.next_power_of_2(d_state)),
        # Plain tf32 would keep 10 bits of a float32 input; three products keep nearly all.
        "PRECISION": "tf32x3" if x.dtype == torch.float32 else "tf32",
    }
    return (n_tokens, n_heads, head_dim, d_state), constants, {"num_warps": 8 if x.dtype == torch.float32 else 4, "num_stages": 1}


def gradient_constants(constants: dict[str, int | bool | str]) -> dict[str, int | bool | str]:
    """Return the constants of the gradient kernel, which takes the state in slices of at most 32."""
    return {**constants, "BLOCK_N": min(32, int(constants["BLOCK_N"]))}


def _grid(x: Tensor, chunk_size: int) -> tuple[int]:
    n_batch, n_tokens, n_heads, _ = x.shape
    return (n_batch * triton.cdiv(n_tokens, chunk_size) * n_heads,)


def _documents(segments_BT: Tensor | None, like: Tensor) -> Tensor:
    """Return the numbers of the documents, or any valid pointer where there are none: the kernels never read it."""
    return like if segments_BT is None else number_documents(segments_BT).contiguous()
