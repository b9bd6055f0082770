"""The convolution in Triton: one pass over memory forward and one backward, tokens by channels, without a transpose.

Everything is written for tokens in the order of the convolution, and an address turns that order into a row of memory:
that is all that `reverse` changes. No atomics: every run gives the same bits.
"""

# Triton reads the annotations of a kernel: only tl.constexpr may stand there. Its tuples grow by `+` while the kernel is
# unrolled, which neither mypy nor ruff can know.
# mypy: disable-error-code="no-untyped-def, assignment, misc, var-annotated"
# ruff: noqa: RUF005

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from tilth.kernels.causal_conv1d.inputs import ConvInputs
from tilth.kernels.documents import number_documents
from tilth.kernels.launches import launch


def forward(inputs: ConvInputs, activation: str | None, reverse: bool) -> Tensor:
    """Return y_BTC in the dtype of x."""
    x, tensors, sizes, constants = _arguments(inputs, activation, reverse)
    n_batch, n_tokens, n_channels = x.shape
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    if x.numel():
        options = launch("causal_conv1d", "forward", x, _bucket(inputs))
        n_programs = n_batch * triton.cdiv(n_tokens, options["BLOCK_T"]) * triton.cdiv(n_channels, options["BLOCK_C"])
        _forward_kernel[(n_programs,)](*tensors, y, *sizes, **constants, **options)
    return y


def backward(dy_BTC: Tensor, inputs: ConvInputs, activation: str | None, reverse: bool) -> tuple[Tensor, ...]:
    """Return the gradients of x, weight, bias and initial state (the last two empty where not given)."""
    x, tensors, sizes, constants = _arguments(inputs, activation, reverse)
    n_batch, n_tokens, n_channels = x.shape
    n_taps, initial = constants["K"], inputs.initial_state_BKC
    dx = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    dinitial = x.new_empty((0,)) if initial is None else initial.new_empty(initial.shape)
    options = launch("causal_conv1d", "backward", x, _bucket(inputs))
    n_chunks = triton.cdiv(n_tokens, options["ROWS"] * options["STEPS"])
    parts = torch.empty((n_batch * n_chunks, n_taps + 1, n_channels), dtype=torch.float32, device=x.device)
    if x.numel():
        n_programs = n_batch * n_chunks * triton.cdiv(n_channels, options["BLOCK_C"])
        _backward_kernel[(n_programs,)](
            dy_BTC.contiguous(),
            *tensors,
            dx,
            dx if not constants["HAS_INITIAL"] else dinitial,
            parts,
            *sizes,
            **constants,
            **options,
        )
    elif initial is not None:
        dinitial.zero_()
    sums = parts.sum(dim=0)
    dbias = x.new_empty((0,)) if inputs.bias_C is None else sums[n_taps].to(inputs.bias_C.dtype, copy=True)
    dweight_CK = sums[n_taps - inputs.weight_CK.shape[1] : n_taps].T.to(inputs.weight_CK.dtype, copy=True).contiguous()
    return dx, dweight_CK, dbias, dinitial


def update(
    x_BTC: Tensor, state_SKC: Tensor, weight_CK: Tensor, bias_C: Tensor | None, activation: str | None, slots_B: Tensor | None
) -> Tensor:
    """Return y_BTC and replace the states by those after the new tokens."""
    x = x_BTC if x_BTC.stride(2) == 1 else x_BTC.contiguous()
    n_batch, n_tokens, n_channels = x.shape
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    if n_batch * n_channels:
        options = launch("causal_conv1d", "update", x, f"K{4 if weight_CK.shape[1] <= 4 else 8}")
        _update_kernel[(n_batch * triton.cdiv(n_channels, options["BLOCK_C"]),)](
            x, state_SKC, weight_CK.contiguous(), weight_CK if bias_C is None else bias_C.contiguous(),
            x if slots_B is None else slots_B.contiguous(), y, n_tokens, n_channels, x.stride(0), x.stride(1),
            *state_SKC.stride(), SILU=activation == "silu",
            HAS_BIAS=bias_C is not None, HAS_SLOTS=slots_B is not None, K=weight_CK.shape[1],
            **options,
        )  # fmt: skip
    return y


@triton.jit
def _silu_slope(total):
    """Return the derivative of total * sigmoid(total)."""
    gate = tl.sigmoid(total)
    return gate * (1.0 + total * (1.0 - gate))


@triton.jit
def _documents_of(documents_ptr, b, i, n_tokens, REVERSE: tl.constexpr):
    """Return the documents of tokens `i`; outside the row that of the token at its edge."""
    i = tl.minimum(tl.maximum(i, 0), n_tokens - 1)
    if REVERSE:
        i = n_tokens - 1 - i
    return tl.load(documents_ptr + b * n_tokens + i)


@triton.jit
def _inputs_of(
    x_ptr, initial_ptr, b, i, c, n_tokens, n_channels, stride_b, stride_t,
    REVERSE: tl.constexpr, HAS_INITIAL: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """Return the inputs (tokens, channels) of tokens `i`: those before token 0 from the initial state, else 0."""
    is_channel = (c < n_channels)[None, :]
    row = i.to(tl.int64)
    if REVERSE:
        row = n_tokens - 1 - row
    mask = ((i >= 0) & (i < n_tokens))[:, None] & is_channel
    x = tl.load(x_ptr + b * stride_b + row[:, None] * stride_t + c[None, :], mask=mask, other=0.0).to(tl.float32)
    if HAS_INITIAL:
        slot = K - 1 + i
        if REVERSE:
            slot = -1 - i
        mask = ((i < 0) & (i > -K))[:, None] & is_channel
        offsets = (b * (K - 1) + slot)[:, None] * n_channels + c[None, :]
        x += tl.load(initial_ptr + offsets, mask=mask, other=0.0).to(tl.float32)
    return x


@triton.jit
def _forward_kernel(
    x_ptr, weight_ptr, bias_ptr, documents_ptr, initial_ptr, y_ptr, n_tokens, n_channels, stride_b, stride_t,
    REVERSE: tl.constexpr, SILU: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_SEGMENTS: tl.constexpr,
    HAS_INITIAL: tl.constexpr, K: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    n_channel_blocks, n_token_blocks = tl.cdiv(n_channels, BLOCK_C), tl.cdiv(n_tokens, BLOCK_T)
    program = tl.program_id(0)
    c = program % n_channel_blocks * BLOCK_C + tl.arange(0, BLOCK_C)
    i = program // n_channel_blocks % n_token_blocks * BLOCK_T + tl.arange(0, BLOCK_T)
    b = (program // n_channel_blocks // n_token_blocks).to(tl.int64)
    is_channel = c < n_channels
    total = tl.zeros([BLOCK_T, BLOCK_C], tl.float32)
    if HAS_BIAS:
        total += tl.load(bias_ptr + c, mask=is_channel, other=0.0).to(tl.float32)[None, :]
    if HAS_SEGMENTS:
        document = _documents_of(documents_ptr, b, i, n_tokens, REVERSE)
    for distance in tl.static_range(K):
        x = _inputs_of(x_ptr, initial_ptr, b, i - distance, c, n_tokens, n_channels, stride_b, stride_t, REVERSE, HAS_INITIAL, K)
        if HAS_SEGMENTS:
            is_same = document == _documents_of(documents_ptr, b, i - distance, n_tokens, REVERSE)
            x = tl.where(is_same[:, None], x, 0.0)
        tap = tl.load(weight_ptr + c * K + (K - 1 - distance), mask=is_channel, other=0.0).to(tl.float32)
        total += x * tap[None, :]
    if SILU:
        total *= tl.sigmoid(total)
    row = i.to(tl.int64)
    if REVERSE:
        row = n_tokens - 1 - row
    y_offsets = (b * n_tokens + row)[:, None] * n_channels + c[None, :]
    tl.store(y_ptr + y_offsets, total.to(y_ptr.dtype.element_ty), mask=(i < n_tokens)[:, None] & is_channel[None, :])


@triton.jit
def _backward_kernel(
    dy_ptr, x_ptr, weight_ptr, bias_ptr, documents_ptr, initial_ptr, dx_ptr, dinitial_ptr, parts_ptr,
    n_tokens, n_channels, stride_b, stride_t,
    REVERSE: tl.constexpr, SILU: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_SEGMENTS: tl.constexpr,
    HAS_INITIAL: tl.constexpr, K: tl.constexpr, ROWS: tl.constexpr, STEPS: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Walk ROWS runs of STEPS tokens side by side, so that each gradient before the activation is computed once.

    The last K - 1 inputs, gradients and documents of each run stay in registers; a run goes K - 1 tokens beyond its end,
    whose gradients its own last tokens need.
    """
    n_channel_blocks, n_chunks = tl.cdiv(n_channels, BLOCK_C), tl.cdiv(n_tokens, ROWS * STEPS)
    program = tl.program_id(0)
    c = program % n_channel_blocks * BLOCK_C + tl.arange(0, BLOCK_C)
    part = (program // n_channel_blocks).to(tl.int64)
    start = ((part % n_chunks).to(tl.int32) * ROWS + tl.arange(0, ROWS)) * STEPS
    b = part // n_chunks
    is_channel = (c < n_channels)[None, :]
    zero = tl.zeros([ROWS, BLOCK_C], tl.float32)
    bias = zero
    if HAS_BIAS:
        bias += tl.load(bias_ptr + c, mask=c < n_channels, other=0.0).to(tl.float32)[None, :]
    # At `distance`: the tap, and the sum of its gradient.
    taps, dtaps = (), ()
    for distance in tl.static_range(K):
        tap = tl.load(weight_ptr + c * K + (K - 1 - distance), mask=c < n_channels, other=0.0).to(tl.float32)
        taps += (tap[None, :],)
        dtaps += (zero,)
    # At index j: what was j + 1 tokens before.
    xs, grads, documents = (), (), ()
    for distance in tl.static_range(1, K):
        xs += (
            _inputs_of(
                x_ptr, initial_ptr, b, start - distance, c, n_tokens, n_channels, stride_b, stride_t, REVERSE, HAS_INITIAL, K
            ),
        )
        grads += (zero,)
        if HAS_SEGMENTS:
            documents += (_documents_of(documents_ptr, b, start - distance, n_tokens, REVERSE),)
    dbias = zero
    for step in range(STEPS + K - 1):
        i = start + step
        x = _inputs_of(x_ptr, initial_ptr, b, i, c, n_tokens, n_channels, stride_b, stride_t, REVERSE, HAS_INITIAL, K)
        if HAS_SEGMENTS:
            document = _documents_of(documents_ptr, b, i, n_tokens, REVERSE)
        row = i.to(tl.int64)
        if REVERSE:
            row = n_tokens - 1 - row
        dy_offsets = (b * n_tokens + row)[:, None] * n_channels + c[None, :]
        grad = tl.load(dy_ptr + dy_offsets, mask=(i < n_tokens)[:, None] & is_channel, other=0.0).to(tl.float32)
        seen = (x,)
        for j in tl.static_range(K - 1):
            if HAS_SEGMENTS:
                seen += (tl.where((documents[j] == document)[:, None], xs[j], 0.0),)
            else:
                seen += (xs[j],)
        if SILU:
            total = bias
            for distance in tl.static_range(K):
                total += seen[distance] * taps[distance]
            grad *= _silu_slope(total)

        # The token K - 1 before this one has now met all that see it.
        dx = grad * taps[K - 1]
        if HAS_SEGMENTS:
            dx = tl.where((documents[K - 2] == document)[:, None], dx, 0.0)
        for j in tl.static_range(K - 1):
            dx_j = grads[j] * taps[K - 2 - j]
            if HAS_SEGMENTS:
                dx_j = tl.where((documents[K - 2] == documents[j])[:, None], dx_j, 0.0)
            dx += dx_j
        done = i - (K - 1)
        row = done.to(tl.int64)
        slot = K - 1 + done
        if REVERSE:
            row = n_tokens - 1 - row
            slot = -1 - done
        is_own = (done >= start) & (done < n_tokens)
        dx_offsets = (b * n_tokens + row)[:, None] * n_channels + c[None, :]
        tl.store(dx_ptr + dx_offsets, dx.to(dx_ptr.dtype.element_ty), mask=is_own[:, None] & is_channel)
        if HAS_INITIAL:
            offsets = (b * (K - 1) + slot)[:, None] * n_channels + c[None, :]
            tl.store(dinitial_ptr + offsets, dx.to(dinitial_ptr.dtype.element_ty), mask=(done < 0)[:, None] & is_channel)

        own_grad = tl.where(step < STEPS, grad, 0.0)
        dbias += own_grad
        summed = ()
        for distance in tl.static_range(K):
            summed += (dtaps[distance] + own_grad * seen[distance],)
        dtaps = summed
        xs = (x,) + xs[: K - 2]
        grads = (grad,) + grads[: K - 2]
        if HAS_SEGMENTS:
            documents = (document,) + documents[: K - 2]
    for distance in tl.static_range(K):
        offsets = (part * (K + 1) + K - 1 - distance) * n_channels + c
        tl.store(parts_ptr + offsets, tl.sum(dtaps[distance], axis=0), mask=c < n_channels)
    tl.store(parts_ptr + (part * (K + 1) + K) * n_channels + c, tl.sum(dbias, axis=0), mask=c < n_channels)


@triton.jit
def _update_kernel(
    x_ptr, state_ptr, weight_ptr, bias_ptr, slots_ptr, y_ptr, n_tokens, n_channels, stride_b, stride_t,
    state_stride_s, state_stride_k, state_stride_c,
    SILU: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_SLOTS: tl.constexpr, K: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Continue one row by its new tokens; what the taps remember stays in registers between them."""
    n_channel_blocks = tl.cdiv(n_channels, BLOCK_C)
    c = tl.program_id(0) % n_channel_blocks * BLOCK_C + tl.arange(0, BLOCK_C)
    b = (tl.program_id(0) // n_channel_blocks).to(tl.int64)
    is_channel = c < n_channels
    slot = b
    if HAS_SLOTS:
        slot = tl.load(slots_ptr + b).to(tl.int64)
    is_used = is_channel & (slot >= 0)
    bias = tl.zeros([BLOCK_C], tl.float32)
    if HAS_BIAS:
        bias += tl.load(bias_ptr + c, mask=is_channel, other=0.0).to(tl.float32)
    state_offsets = state_ptr + slot * state_stride_s + c * state_stride_c
    taps, xs = (), ()
    for j in tl.static_range(K):
        taps += (tl.load(weight_ptr + c * K + (K - 1 - j), mask=is_channel, other=0.0).to(tl.float32),)
    for j in tl.static_range(K - 1):
        xs += (tl.load(state_offsets + (K - 2 - j) * state_stride_k, mask=is_used, other=0.0).to(tl.float32),)
    for t in range(n_tokens):
        x = tl.load(x_ptr + b * stride_b + t * stride_t + c, mask=is_used, other=0.0).to(tl.float32)
        total = bias + x * taps[0]
        for j in tl.static_range(K - 1):
            total += xs[j] * taps[j + 1]
        if SILU:
            total *= tl.sigmoid(total)
        total = tl.where(is_used, total, 0.0)
        tl.store(y_ptr + (b * n_tokens + t) * n_channels + c, total.to(y_ptr.dtype.element_ty), mask=is_channel)
        xs = (x,) + xs[: K - 2]
    for j in tl.static_range(K - 1):
        tl.store(state_offsets + (K - 2 - j) * state_stride_k, xs[j].to(state_ptr.dtype.element_ty), mask=is_used)


def _arguments(
    inputs: ConvInputs, activation: str | None, reverse: bool
) -> tuple[Tensor, tuple[Tensor, ...], tuple[int, ...], dict[str, Any]]:
    """Return x, the tensors and sizes of the kernels, and the constants; an absent tensor is any valid pointer, never read."""
    x, weight, bias, segments, initial = inputs
    if weight.shape[1] == 1:  # the kernels always look back: a tap that is 0 makes two of one
        weight, initial = torch.nn.functional.pad(weight, (1, 0)), None
    # A slice of wider rows stays where it lies; only channels that are not neighbours are copied.
    x = x if x.stride(2) == 1 else x.contiguous()
    documents = x if segments is None else number_documents(segments).contiguous()
    tensors = (
        x,
        weight.contiguous(),
        x if bias is None else bias.contiguous(),
        documents,
        x if initial is None else initial.contiguous(),
    )
    constants = {
        "REVERSE": reverse,
        "SILU": activation == "silu",
        "HAS_BIAS": bias is not None,
        "HAS_SEGMENTS": segments is not None,
        "HAS_INITIAL": initial is not None,
        "K": weight.shape[1],
    }
    return x, tensors, (x.shape[1], x.shape[2], x.stride(0), x.stride(1)), constants


def _bucket(inputs: ConvInputs) -> str:
    return f"K{4 if inputs.weight_CK.shape[1] <= 4 else 8}"
