"""The selective scan in Triton: chunks of tokens in parallel, each walked token by token with its states in registers.

Forward: what each chunk adds to the state; the states passed from chunk to chunk; the outputs of each chunk. Backward is
the same in reverse. Everything is written for tokens in the order of the scan, and an address turns that order into a
row of memory: that is all that `reverse` changes. No atomics: every run gives the same bits. States lie as (N, C), so
that neighbouring threads hold neighbouring channels and a sum over N stays inside a thread.
"""

# Triton reads the annotations of a kernel: only tl.constexpr may stand there. Its tuples grow by `+` while the kernel is
# unrolled, which mypy cannot know.
# mypy: disable-error-code="no-untyped-def, assignment, misc, var-annotated"

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from tilth.kernels.documents import first_tokens
from tilth.kernels.launches import launch
from tilth.kernels.selective_scan.inputs import CHUNK, SelectiveInputs, StepInputs

_MAX_STATE = 64


def forward(inputs: SelectiveInputs, dt_softplus: bool, reverse: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return (y_BTC, final_state_BCN, the states that enter the chunks BcCN)."""
    call = _Launch(inputs, dt_softplus, reverse)
    added, through = call.new_states(), call.new_states()
    call.run(_added_kernel, "added", added, through)
    entering, final = _pass(added, through, inputs.initial_state_BCN, backwards=False)
    y = torch.empty(inputs.u_BTC.shape, dtype=inputs.u_BTC.dtype, device=inputs.u_BTC.device)
    call.run(_output_kernel, "output", entering, y, y, WRITE_OUTPUT=True, RUN=CHUNK)
    return y, final, entering


def backward(
    dy_BTC: Tensor, dfinal_BCN: Tensor, inputs: SelectiveInputs, states_BcCN: Tensor, dt_softplus: bool, reverse: bool
) -> tuple[Tensor, ...]:
    """Return the gradients of all inputs but the documents, in their order; empty where not given."""
    call = _Launch(inputs, dt_softplus, reverse)
    u, B_BTGN = inputs.u_BTC, inputs.B_BTGN
    n_batch, n_tokens, n_channels = u.shape
    n_groups, d_state = B_BTGN.shape[2:]
    dy = dy_BTC.contiguous()
    read, through = call.new_states(), call.new_states()
    call.run(_read_kernel, "read", dy, read, through)
    leaving, dinitial = _pass(read, through, dfinal_BCN, backwards=True)

    run = launch("selective_scan", "gradient", u, call.bucket)["RUN"]
    starts = u.new_empty((n_batch, inputs.n_chunks * (CHUNK // run), n_channels, d_state), dtype=torch.float32)
    call.run(_output_kernel, "output", states_BcCN, dy, starts, WRITE_OUTPUT=False, RUN=run)
    du, ddt = (torch.empty(u.shape, dtype=t.dtype, device=u.device) for t in (u, inputs.dt_BTC))
    dz = u.new_empty((0,)) if inputs.z_BTC is None else torch.empty(u.shape, dtype=inputs.z_BTC.dtype, device=u.device)
    n_blocks = call.n_channel_blocks("gradient")
    dB_parts = u.new_empty((n_batch, n_tokens, n_groups, n_blocks // n_groups, d_state), dtype=torch.float32)
    dC_parts = torch.empty_like(dB_parts)
    dA_parts = call.new_states()
    dD_parts = u.new_empty((n_batch, inputs.n_chunks, n_channels), dtype=torch.float32)
    dbias_parts = torch.empty_like(dD_parts)
    call.run(
        _gradient_kernel, "gradient", dy, starts, leaving, du, ddt, dz if dz.numel() else du,
        dB_parts, dC_parts, dA_parts, dD_parts, dbias_parts,
    )  # fmt: skip
    found = {
        "u_BTC": du,
        "dt_BTC": ddt,
        "A_CN": dA_parts.sum(dim=(0, 1)),
        "B_BTGN": dB_parts.sum(dim=3),
        "C_BTGN": dC_parts.sum(dim=3),
        "D_C": dD_parts.sum(dim=(0, 1)),
        "z_BTC": dz,
        "dt_bias_C": dbias_parts.sum(dim=(0, 1)),
        "initial_state_BCN": dinitial,
    }
    return tuple(
        u.new_empty((0,)) if tensor is None else found[name].to(tensor.dtype)
        for name, tensor in inputs._asdict().items()
        if name != "segments_BT"
    )


def step(inputs: StepInputs, dt_softplus: bool) -> Tensor:
    """Return y_BC of one more token and replace the states."""
    u, state, dt, A, B, C, D, z, dt_bias, indices = inputs
    n_batch, n_channels = u.shape
    n_groups, d_state = B.shape[1:]
    _check_state(d_state)
    y = torch.empty(u.shape, dtype=u.dtype, device=u.device)
    if u.numel():
        u, dt, A, B, C = (t.contiguous() for t in (u, dt, A, B, C))
        optional = [u if t is None else t.contiguous() for t in (D, z, dt_bias, indices)]
        options = launch("selective_scan", "step", u, _bucket(d_state))
        _step_kernel[(n_batch * triton.cdiv(n_channels, options["BLOCK_C"]),)](
            u, dt, A, B, C, *optional, state, y, n_channels, d_state, n_channels // n_groups, *state.stride(),
            SOFTPLUS=dt_softplus, HAS_D=D is not None, HAS_Z=z is not None, HAS_BIAS=dt_bias is not None,
            HAS_SLOTS=indices is not None, BLOCK_N=triton.next_power_of_2(d_state), **options,
        )  # fmt: skip
    return y


class _Launch:
    """What all kernels of one call share: tensors, sizes and constants; an absent tensor is any valid pointer, never read."""

    def __init__(self, inputs: SelectiveInputs, dt_softplus: bool, reverse: bool) -> None:
        self.inputs = inputs
        _, n_tokens, n_channels = inputs.u_BTC.shape
        self.n_groups, d_state = inputs.B_BTGN.shape[2:]
        _check_state(d_state)
        self.bucket = _bucket(d_state)
        u, dt, B, C = (_token_rows(t) for t in (inputs.u_BTC, inputs.dt_BTC, inputs.B_BTGN, inputs.C_BTGN))
        z = u if inputs.z_BTC is None else _token_rows(inputs.z_BTC)
        vectors = [u if t is None else t.contiguous() for t in (inputs.D_C, inputs.dt_bias_C)]
        is_first = u if inputs.segments_BT is None else first_tokens(inputs.segments_BT, reverse).to(torch.int8)
        self.tensors = (u, dt, inputs.A_CN.contiguous(), B, C, vectors[0], z, vectors[1], is_first)
        self.sizes = (n_tokens, n_channels, d_state, self.n_groups, *(t.stride(1) for t in (u, dt, B, C, z)))
        self.constants = {
            "REVERSE": reverse,
            "SOFTPLUS": dt_softplus,
            "HAS_D": inputs.D_C is not None,
            "HAS_Z": inputs.z_BTC is not None,
            "HAS_BIAS": inputs.dt_bias_C is not None,
            "HAS_SEGMENTS": inputs.segments_BT is not None,
            "CHUNK": CHUNK,
            "BLOCK_N": triton.next_power_of_2(d_state),
        }

    def new_states(self) -> Tensor:
        shape = (self.inputs.u_BTC.shape[0], self.inputs.n_chunks, *self.inputs.A_CN.shape)
        return torch.empty(shape, dtype=torch.float32, device=self.inputs.u_BTC.device)

    def n_channel_blocks(self, kernel: str) -> int:
        """Return the number of blocks of channels; none of them lies in two groups."""
        block = launch("selective_scan", kernel, self.inputs.u_BTC, self.bucket)["BLOCK_C"]
        return self.n_groups * triton.cdiv(self.inputs.u_BTC.shape[2] // self.n_groups, block)

    def run(self, kernel: Any, name: str, *tensors: Tensor, **constants: Any) -> None:
        options = {**launch("selective_scan", name, self.inputs.u_BTC, self.bucket), **constants}
        n_programs = self.inputs.u_BTC.shape[0] * self.inputs.n_chunks * self.n_channel_blocks(name)
        if n_programs:
            kernel[(n_programs,)](*self.tensors, *tensors, *self.sizes, **self.constants, **options)


@triton.jit
def _place(n_tokens, n_channels, n_groups, CHUNK: tl.constexpr, BLOCK_C: tl.constexpr):
    """Return row, chunk, group, block of channels, the channels and which of them exist."""
    per_group = n_channels // n_groups
    n_blocks = tl.cdiv(per_group, BLOCK_C)
    n_chunks = tl.cdiv(n_tokens, CHUNK)
    program = tl.program_id(0)
    block = program % (n_blocks * n_groups)
    group = block // n_blocks
    within = block % n_blocks * BLOCK_C + tl.arange(0, BLOCK_C)
    chunk = program // (n_blocks * n_groups)
    b = (chunk // n_chunks).to(tl.int64)
    return b, chunk % n_chunks, group, block, group * per_group + within, within < per_group


@triton.jit
def _state_offsets(slot, c, n, n_channels, d_state):
    """Return the offsets (N, C) of a state stored as (C, N)."""
    return (slot * n_channels + c)[None, :] * d_state + n[:, None]


@triton.jit
def _time_step(dt_ptr, offsets, dt_bias, mask, SOFTPLUS: tl.constexpr):
    """Return the time step before and after the softplus, 0 where masked."""
    raw = tl.load(dt_ptr + offsets, mask=mask, other=0.0).to(tl.float32) + dt_bias
    dt = raw
    if SOFTPLUS:
        # log(1 + e) keeps few digits of a small e; the second term is what 1 + e lost.
        small = tl.exp(-tl.abs(raw))
        one_more = 1.0 + small
        dt = tl.maximum(raw, 0.0) + (tl.log(one_more) + (small - (one_more - 1.0)) / one_more)
    return raw, tl.where(mask, dt, 0.0)


@triton.jit
def _added_kernel(
    u_ptr, dt_ptr, A_ptr, B_ptr, C_ptr, D_ptr, z_ptr, dt_bias_ptr, is_first_ptr, added_ptr, through_ptr,
    n_tokens, n_channels, d_state, n_groups, u_stride, dt_stride, B_stride, C_stride, z_stride,
    REVERSE: tl.constexpr, SOFTPLUS: tl.constexpr, HAS_D: tl.constexpr, HAS_Z: tl.constexpr, HAS_BIAS: tl.constexpr,
    HAS_SEGMENTS: tl.constexpr, CHUNK: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """What each chunk adds to the state, and what is left of the state that enters it."""
    b, chunk, group, _block, c, is_channel = _place(n_tokens, n_channels, n_groups, CHUNK, BLOCK_C)
    n = tl.arange(0, BLOCK_N)
    mask = (n < d_state)[:, None] & is_channel[None, :]
    A, dt_bias = _parameters(A_ptr, dt_bias_ptr, c, n, mask, is_channel, d_state, HAS_BIAS)
    state = tl.zeros([BLOCK_N, BLOCK_C], tl.float32)
    through = state + 1.0
    for i in range(chunk * CHUNK, tl.minimum(chunk * CHUNK + CHUNK, n_tokens)):
        t = i
        if REVERSE:
            t = n_tokens - 1 - i
        token = b * n_tokens + t
        _raw, dt = _time_step(dt_ptr, token * dt_stride + c, dt_bias, is_channel, SOFTPLUS)
        u = tl.load(u_ptr + token * u_stride + c, mask=is_channel, other=0.0).to(tl.float32)
        B = tl.load(B_ptr + token * B_stride + group * d_state + n, mask=n < d_state, other=0.0).to(tl.float32)
        decay = tl.exp(dt[None, :] * A)
        if HAS_SEGMENTS:
            is_first = tl.load(is_first_ptr + token) != 0
            state = tl.where(is_first, 0.0, state)
            through = tl.where(is_first, 0.0, through)
        state = decay * state + (dt * u)[None, :] * B[:, None]
        through *= decay
    offsets = _state_offsets(b * tl.cdiv(n_tokens, CHUNK) + chunk, c, n, n_channels, d_state)
    tl.store(added_ptr + offsets, state, mask=mask)
    tl.store(through_ptr + offsets, through, mask=mask)


@triton.jit
def _output_kernel(
    u_ptr, dt_ptr, A_ptr, B_ptr, C_ptr, D_ptr, z_ptr, dt_bias_ptr, is_first_ptr, entering_ptr, y_ptr, starts_ptr,
    n_tokens, n_channels, d_state, n_groups, u_stride, dt_stride, B_stride, C_stride, z_stride,
    REVERSE: tl.constexpr, SOFTPLUS: tl.constexpr, HAS_D: tl.constexpr, HAS_Z: tl.constexpr, HAS_BIAS: tl.constexpr,
    HAS_SEGMENTS: tl.constexpr, CHUNK: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr,
    WRITE_OUTPUT: tl.constexpr, RUN: tl.constexpr,
):  # fmt: skip
    """The outputs of a chunk; without WRITE_OUTPUT the state before every RUN tokens of it, which the gradients begin at."""
    b, chunk, group, _block, c, is_channel = _place(n_tokens, n_channels, n_groups, CHUNK, BLOCK_C)
    n = tl.arange(0, BLOCK_N)
    mask = (n < d_state)[:, None] & is_channel[None, :]
    A, dt_bias = _parameters(A_ptr, dt_bias_ptr, c, n, mask, is_channel, d_state, HAS_BIAS)
    chunk_of_all = b * tl.cdiv(n_tokens, CHUNK) + chunk
    state = tl.load(entering_ptr + _state_offsets(chunk_of_all, c, n, n_channels, d_state), mask=mask, other=0.0)
    if HAS_D:
        D = tl.load(D_ptr + c, mask=is_channel, other=0.0).to(tl.float32)
    for q in range(tl.minimum(CHUNK, n_tokens - chunk * CHUNK)):
        t = chunk * CHUNK + q
        if REVERSE:
            t = n_tokens - 1 - t
        token = b * n_tokens + t
        if not WRITE_OUTPUT and q % RUN == 0:
            run = chunk_of_all * (CHUNK // RUN) + q // RUN
            tl.store(starts_ptr + _state_offsets(run, c, n, n_channels, d_state), state, mask=mask)
        _raw, dt = _time_step(dt_ptr, token * dt_stride + c, dt_bias, is_channel, SOFTPLUS)
        u = tl.load(u_ptr + token * u_stride + c, mask=is_channel, other=0.0).to(tl.float32)
        B = tl.load(B_ptr + token * B_stride + group * d_state + n, mask=n < d_state, other=0.0).to(tl.float32)
        if HAS_SEGMENTS:
            state = tl.where(tl.load(is_first_ptr + token) != 0, 0.0, state)
        state = tl.exp(dt[None, :] * A) * state + (dt * u)[None, :] * B[:, None]
        if WRITE_OUTPUT:
            C = tl.load(C_ptr + token * C_stride + group * d_state + n, mask=n < d_state, other=0.0).to(tl.float32)
            y = tl.sum(state * C[:, None], axis=0)
            if HAS_D:
                y += D * u
            if HAS_Z:
                z = tl.load(z_ptr + token * z_stride + c, mask=is_channel, other=0.0).to(tl.float32)
                y *= z * tl.sigmoid(z)
            tl.store(y_ptr + token * n_channels + c, y.to(y_ptr.dtype.element_ty), mask=is_channel)


@triton.jit
def _read_kernel(
    u_ptr, dt_ptr, A_ptr, B_ptr, C_ptr, D_ptr, z_ptr, dt_bias_ptr, is_first_ptr, dy_ptr, read_ptr, through_ptr,
    n_tokens, n_channels, d_state, n_groups, u_stride, dt_stride, B_stride, C_stride, z_stride,
    REVERSE: tl.constexpr, SOFTPLUS: tl.constexpr, HAS_D: tl.constexpr, HAS_Z: tl.constexpr, HAS_BIAS: tl.constexpr,
    HAS_SEGMENTS: tl.constexpr, CHUNK: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """The gradient of the state that enters each chunk through the outputs of that chunk, walked from its end."""
    b, chunk, group, _block, c, is_channel = _place(n_tokens, n_channels, n_groups, CHUNK, BLOCK_C)
    n = tl.arange(0, BLOCK_N)
    mask = (n < d_state)[:, None] & is_channel[None, :]
    A, dt_bias = _parameters(A_ptr, dt_bias_ptr, c, n, mask, is_channel, d_state, HAS_BIAS)
    read = tl.zeros([BLOCK_N, BLOCK_C], tl.float32)
    through = read + 1.0
    n_here = tl.minimum(CHUNK, n_tokens - chunk * CHUNK)
    for q in range(n_here):
        t = chunk * CHUNK + n_here - 1 - q
        if REVERSE:
            t = n_tokens - 1 - t
        token = b * n_tokens + t
        _raw, dt = _time_step(dt_ptr, token * dt_stride + c, dt_bias, is_channel, SOFTPLUS)
        C = tl.load(C_ptr + token * C_stride + group * d_state + n, mask=n < d_state, other=0.0).to(tl.float32)
        dy = tl.load(dy_ptr + token * n_channels + c, mask=is_channel, other=0.0).to(tl.float32)
        if HAS_Z:
            z = tl.load(z_ptr + token * z_stride + c, mask=is_channel, other=0.0).to(tl.float32)
            dy *= z * tl.sigmoid(z)
        decay = tl.exp(dt[None, :] * A)
        read = decay * (read + dy[None, :] * C[:, None])
        through *= decay
        if HAS_SEGMENTS:
            is_first = tl.load(is_first_ptr + token) != 0
            read = tl.where(is_first, 0.0, read)
            through = tl.where(is_first, 0.0, through)
    offsets = _state_offsets(b * tl.cdiv(n_tokens, CHUNK) + chunk, c, n, n_channels, d_state)
    tl.store(read_ptr + offsets, read, mask=mask)
    tl.store(through_ptr + offsets, through, mask=mask)


@triton.jit
def _pass_kernel(
    added_ptr, through_ptr, first_ptr, received_ptr, handed_on_ptr, n_chunks, state_size,
    HAS_FIRST: tl.constexpr, BACKWARDS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Pass the states of one row from chunk to chunk: S' = through S + added; each chunk keeps the S it gets."""
    n_blocks = tl.cdiv(state_size, BLOCK)
    b = (tl.program_id(0) // n_blocks).to(tl.int64)
    j = tl.program_id(0) % n_blocks * BLOCK + tl.arange(0, BLOCK)
    inside = j < state_size
    state = tl.zeros([BLOCK], dtype=tl.float32)
    if HAS_FIRST:
        state = tl.load(first_ptr + b * state_size + j, mask=inside, other=0.0).to(tl.float32)
    for step in range(n_chunks):
        chunk = step
        if BACKWARDS:
            chunk = n_chunks - 1 - step
        offsets = (b * n_chunks + chunk) * state_size + j
        tl.store(received_ptr + offsets, state, mask=inside)
        through = tl.load(through_ptr + offsets, mask=inside, other=0.0)
        state = through * state + tl.load(added_ptr + offsets, mask=inside, other=0.0)
    tl.store(handed_on_ptr + b * state_size + j, state, mask=inside)


@triton.jit
def _gradient_kernel(
    u_ptr, dt_ptr, A_ptr, B_ptr, C_ptr, D_ptr, z_ptr, dt_bias_ptr, is_first_ptr,
    dy_ptr, starts_ptr, leaving_ptr, du_ptr, ddt_ptr, dz_ptr, dB_ptr, dC_ptr, dA_ptr, dD_ptr, dbias_ptr,
    n_tokens, n_channels, d_state, n_groups, u_stride, dt_stride, B_stride, C_stride, z_stride,
    REVERSE: tl.constexpr, SOFTPLUS: tl.constexpr, HAS_D: tl.constexpr, HAS_Z: tl.constexpr, HAS_BIAS: tl.constexpr,
    HAS_SEGMENTS: tl.constexpr, CHUNK: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr, RUN: tl.constexpr,
):  # fmt: skip
    """All gradients of one chunk and block of channels, from its last run of tokens to its first.

    The states before the tokens of a run are computed again and kept in registers, then its tokens are walked back.
    """
    b, chunk, group, block, c, is_channel = _place(n_tokens, n_channels, n_groups, CHUNK, BLOCK_C)
    n_blocks = n_groups * tl.cdiv(n_channels // n_groups, BLOCK_C)
    n = tl.arange(0, BLOCK_N)
    is_state = n < d_state
    mask = is_state[:, None] & is_channel[None, :]
    A, dt_bias = _parameters(A_ptr, dt_bias_ptr, c, n, mask, is_channel, d_state, HAS_BIAS)
    D = tl.zeros([BLOCK_C], tl.float32)
    if HAS_D:
        D += tl.load(D_ptr + c, mask=is_channel, other=0.0).to(tl.float32)
    chunk_of_all = b * tl.cdiv(n_tokens, CHUNK) + chunk
    # What the tokens after hand back, already through the decay of the one that hands it.
    handed = tl.load(leaving_ptr + _state_offsets(chunk_of_all, c, n, n_channels, d_state), mask=mask, other=0.0)
    dA = tl.zeros([BLOCK_N, BLOCK_C], tl.float32)
    dD, dbias = tl.zeros([BLOCK_C], tl.float32), tl.zeros([BLOCK_C], tl.float32)
    n_runs = tl.cdiv(tl.minimum(CHUNK, n_tokens - chunk * CHUNK), RUN)
    for step in range(n_runs):
        run = n_runs - 1 - step
        start = _state_offsets(chunk_of_all * (CHUNK // RUN) + run, c, n, n_channels, d_state)
        state = tl.load(starts_ptr + start, mask=mask, other=0.0)
        before = ()
        dA_run = tl.zeros([BLOCK_N, BLOCK_C], tl.float32)
        dD_run, dbias_run = tl.zeros([BLOCK_C], tl.float32), tl.zeros([BLOCK_C], tl.float32)
        for q in tl.static_range(RUN):
            i = chunk * CHUNK + run * RUN + q
            inside = i < n_tokens
            t = tl.minimum(i, n_tokens - 1)
            if REVERSE:
                t = n_tokens - 1 - t
            token = b * n_tokens + t
            _raw, dt = _time_step(dt_ptr, token * dt_stride + c, dt_bias, is_channel & inside, SOFTPLUS)
            u = tl.load(u_ptr + token * u_stride + c, mask=is_channel & inside, other=0.0).to(tl.float32)
            B = tl.load(B_ptr + token * B_stride + group * d_state + n, mask=is_state, other=0.0).to(tl.float32)
            if HAS_SEGMENTS:
                state = tl.where((tl.load(is_first_ptr + token) != 0) & inside, 0.0, state)
            before += (state,)
            state = tl.exp(dt[None, :] * A) * state + (dt * u)[None, :] * B[:, None]
        for back in tl.static_range(RUN):
            i = chunk * CHUNK + run * RUN + (RUN - 1 - back)
            inside = i < n_tokens
            t = tl.minimum(i, n_tokens - 1)
            if REVERSE:
                t = n_tokens - 1 - t
            token = b * n_tokens + t
            is_here = is_channel & inside
            raw, dt = _time_step(dt_ptr, token * dt_stride + c, dt_bias, is_here, SOFTPLUS)
            u = tl.load(u_ptr + token * u_stride + c, mask=is_here, other=0.0).to(tl.float32)
            dy = tl.load(dy_ptr + token * n_channels + c, mask=is_here, other=0.0).to(tl.float32)
            B = tl.load(B_ptr + token * B_stride + group * d_state + n, mask=is_state, other=0.0).to(tl.float32)
            C = tl.load(C_ptr + token * C_stride + group * d_state + n, mask=is_state, other=0.0).to(tl.float32)
            decay = tl.exp(dt[None, :] * A)
            decayed = decay * before[RUN - 1 - back]
            added = dt * u
            state = decayed + added[None, :] * B[:, None]
            if HAS_Z:
                z = tl.load(z_ptr + token * z_stride + c, mask=is_here, other=0.0).to(tl.float32)
                gate = tl.sigmoid(z)
                dz = dy * (tl.sum(state * C[:, None], axis=0) + D * u) * (gate * (1.0 + z * (1.0 - gate)))
                tl.store(dz_ptr + token * n_channels + c, dz.to(dz_ptr.dtype.element_ty), mask=is_here)
                dy *= z * gate
            dstate = handed + dy[None, :] * C[:, None]
            handed = decay * dstate
            if HAS_SEGMENTS:
                handed = tl.where((tl.load(is_first_ptr + token) != 0) & inside, 0.0, handed)
            part = (token * n_blocks + block) * d_state + n
            tl.store(dB_ptr + part, tl.sum(dstate * added[None, :], axis=1), mask=is_state & inside)
            tl.store(dC_ptr + part, tl.sum(state * dy[None, :], axis=1), mask=is_state & inside)
            dlog = dstate * decayed
            dA_run += dlog * dt[None, :]
            dadded = tl.sum(dstate * B[:, None], axis=0)
            ddt = dadded * u + tl.sum(dlog * A, axis=0)
            if SOFTPLUS:
                ddt *= tl.sigmoid(raw)
            ddt = tl.where(is_here, ddt, 0.0)
            dbias_run += ddt
            dD_run += dy * u
            du = dadded * dt + D * dy
            tl.store(du_ptr + token * n_channels + c, du.to(du_ptr.dtype.element_ty), mask=is_here)
            tl.store(ddt_ptr + token * n_channels + c, ddt.to(ddt_ptr.dtype.element_ty), mask=is_here)
        # Sums of sums: one over all tokens of the chunk, one by one, would round more than torch does.
        dA += dA_run
        dD += dD_run
        dbias += dbias_run
    tl.store(dA_ptr + _state_offsets(chunk_of_all, c, n, n_channels, d_state), dA, mask=mask)
    tl.store(dD_ptr + chunk_of_all * n_channels + c, dD, mask=is_channel)
    tl.store(dbias_ptr + chunk_of_all * n_channels + c, dbias, mask=is_channel)


@triton.jit
def _step_kernel(
    u_ptr, dt_ptr, A_ptr, B_ptr, C_ptr, D_ptr, z_ptr, dt_bias_ptr, slots_ptr, state_ptr, y_ptr,
    n_channels, d_state, per_group, state_stride_s, state_stride_c, state_stride_n,
    SOFTPLUS: tl.constexpr, HAS_D: tl.constexpr, HAS_Z: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_SLOTS: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """One more token of one row and block of channels; the state is replaced."""
    n_blocks = tl.cdiv(n_channels, BLOCK_C)
    b = (tl.program_id(0) // n_blocks).to(tl.int64)
    c = tl.program_id(0) % n_blocks * BLOCK_C + tl.arange(0, BLOCK_C)
    n = tl.arange(0, BLOCK_N)
    slot = b
    if HAS_SLOTS:
        slot = tl.load(slots_ptr + b).to(tl.int64)
    is_channel = c < n_channels
    mask = (n < d_state)[:, None] & (is_channel & (slot >= 0))[None, :]
    A, dt_bias = _parameters(A_ptr, dt_bias_ptr, c, n, mask, is_channel, d_state, HAS_BIAS)
    _raw, dt = _time_step(dt_ptr, b * n_channels + c, dt_bias, is_channel, SOFTPLUS)
    u = tl.load(u_ptr + b * n_channels + c, mask=is_channel, other=0.0).to(tl.float32)
    n_groups = n_channels // per_group
    shared = (b * n_groups + c // per_group)[None, :] * d_state + n[:, None]
    B = tl.load(B_ptr + shared, mask=mask, other=0.0).to(tl.float32)
    C = tl.load(C_ptr + shared, mask=mask, other=0.0).to(tl.float32)
    state_ptrs = state_ptr + slot * state_stride_s + c[None, :] * state_stride_c + n[:, None] * state_stride_n
    state = tl.load(state_ptrs, mask=mask, other=0.0).to(tl.float32)
    state = tl.exp(dt[None, :] * A) * state + (dt * u)[None, :] * B
    tl.store(state_ptrs, state.to(state_ptr.dtype.element_ty), mask=mask)
    y = tl.sum(state * C, axis=0)
    if HAS_D:
        y += tl.load(D_ptr + c, mask=is_channel, other=0.0).to(tl.float32) * u
    if HAS_Z:
        z = tl.load(z_ptr + b * n_channels + c, mask=is_channel, other=0.0).to(tl.float32)
        y *= z * tl.sigmoid(z)
    y = tl.where(slot >= 0, y, 0.0)
    tl.store(y_ptr + b * n_channels + c, y.to(y_ptr.dtype.element_ty), mask=is_channel)


@triton.jit
def _parameters(A_ptr, dt_bias_ptr, c, n, mask, is_channel, d_state, HAS_BIAS: tl.constexpr):
    """Return A (N, C) and the bias of the time step (C)."""
    A = tl.load(A_ptr + c[None, :] * d_state + n[:, None], mask=mask, other=0.0).to(tl.float32)
    dt_bias = tl.zeros(c.shape, tl.float32)
    if HAS_BIAS:
        dt_bias += tl.load(dt_bias_ptr + c, mask=is_channel, other=0.0).to(tl.float32)
    return A, dt_bias


def _pass(added_BcCN: Tensor, through_BcCN: Tensor, first_BCN: Tensor | None, backwards: bool) -> tuple[Tensor, Tensor]:
    """Return the state that each chunk gets, and the one that the last chunk (the first if `backwards`) hands on."""
    n_batch, n_chunks, n_channels, d_state = added_BcCN.shape
    received = torch.empty_like(added_BcCN)
    handed_on = added_BcCN.new_empty((n_batch, n_channels, d_state))
    first = added_BcCN if first_BCN is None else first_BCN.contiguous()
    options = launch("selective_scan", "pass", added_BcCN, "any")
    state_size = n_channels * d_state
    if handed_on.numel():
        _pass_kernel[(n_batch * triton.cdiv(state_size, options["BLOCK"]),)](
            added_BcCN, through_BcCN, first, received, handed_on, n_chunks, state_size,
            HAS_FIRST=first_BCN is not None, BACKWARDS=backwards, **options,
        )  # fmt: skip
    return received, handed_on


def _token_rows(values_BT: Tensor) -> Tensor:
    """Return the tensor itself where one stride leads from token to token: a slice of wider rows is not copied."""
    n_batch, n_tokens = values_BT.shape[:2]
    is_dense = n_batch * n_tokens > 0 and values_BT[0, 0].is_contiguous()
    is_even = n_batch == 1 or values_BT.stride(0) == n_tokens * values_BT.stride(1)
    return values_BT if is_dense and is_even else values_BT.contiguous()


def _bucket(d_state: int) -> str:
    return f"N{16 if d_state <= 16 else _MAX_STATE}"


def _check_state(d_state: int) -> None:
    if d_state > _MAX_STATE:
        raise ValueError(f"the Triton selective_scan keeps states in registers: N is {d_state}, at most {_MAX_STATE}")
