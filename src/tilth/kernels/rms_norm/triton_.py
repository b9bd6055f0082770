"""RMSNorm in Triton: a row in registers where it fits, else two passes over it; gradients of weights as partial sums.

A row here is one group of one strand of one token: strands and groups cost no pass of their own, only the index of the
weight, which runs backwards on the second strand.
"""

# Triton reads the annotations of a kernel: only tl.constexpr may stand there.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from tilth.kernels.launches import launch

_BLOCKS = (256, 1024, 2048, 4096, 8192, 32768)
_LARGEST_BACKWARD_BLOCK = 8192
"""The sums of the weight's gradient lie in registers beside the row."""


def forward(
    x_D: Tensor,
    weight_D: Tensor,
    bias_D: Tensor | None,
    residual_D: Tensor | None,
    gate_D: Tensor | None,
    eps: float,
    norm_before_gate: bool,
    group_size: int,
    reverse_complement: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return y (..., D), x + residual (empty without one), and 1 / rms of each group (..., groups)."""
    x = _tokens(x_D)
    residual, gate = (None if t is None else _tokens(t) for t in (residual_D, gate_D))
    n_tokens, n_channels = x.shape
    n_groups = n_channels // group_size
    y = torch.empty(x_D.shape, dtype=x.dtype, device=x.device)
    h = x.new_empty(0) if residual_D is None else torch.empty(x_D.shape, dtype=residual_D.dtype, device=x.device)
    rstd = torch.empty((*x_D.shape[:-1], n_groups), dtype=torch.float32, device=x.device)
    if n_tokens:
        options = launch("rms_norm", "forward", x, _bucket(group_size, _BLOCKS[-1]))
        _forward_kernel[(triton.cdiv(n_tokens * n_groups, options["ROWS"]),)](
            x, residual, gate, weight_D.contiguous(), _contiguous(bias_D), y, h, rstd,
            eps, n_tokens * n_groups, n_groups, group_size, weight_D.shape[0],
            x.stride(0), _stride(residual), _stride(gate),
            GATE=_gate_place(gate, norm_before_gate), STRANDS=1 + reverse_complement,
            ONE_BLOCK=group_size <= options["BLOCK"], **options,
        )  # fmt: skip
    return y, h, rstd


def backward(
    dy_D: Tensor,
    dh_D: Tensor | None,
    x_D: Tensor,
    weight_D: Tensor,
    bias_D: Tensor | None,
    gate_D: Tensor | None,
    rstd: Tensor,
    dtype: torch.dtype,
    eps: float,
    norm_before_gate: bool,
    group_size: int,
    reverse_complement: bool,
) -> list[Tensor]:
    """Return the gradients of x, weight, bias and gate, and of the residual where its dtype is another."""
    dy, x = _tokens(dy_D), _tokens(x_D)
    dh, gate = (None if t is None else _tokens(t) for t in (dh_D, gate_D))
    n_tokens, n_channels = x.shape
    dx = torch.empty(x_D.shape, dtype=dtype, device=x.device)
    dresidual = None if x_D.dtype == dtype else torch.empty(x_D.shape, dtype=x_D.dtype, device=x.device)
    dgate = None if gate_D is None else torch.empty(gate_D.shape, dtype=gate_D.dtype, device=x.device)
    bucket = _bucket(group_size, _LARGEST_BACKWARD_BLOCK)
    options = launch("rms_norm", "backward", x, bucket)
    n_groups, n_blocks = n_channels // group_size, triton.cdiv(group_size, options["BLOCK"])
    # As many as the table says and not as the GPU could run: the order of summation must not depend on the machine.
    n_programs = min(triton.cdiv(n_tokens, options["ROWS"]), max(options.pop("PROGRAMS") // (n_groups * n_blocks), 1))
    sums = [
        torch.empty((n_programs, n_channels), dtype=torch.float32, device=x.device) for w in (weight_D, bias_D) if w is not None
    ]
    if n_tokens:
        shared = (dy, x, gate, weight_D.contiguous(), _contiguous(bias_D), rstd)
        strides = (dy.stride(0), x.stride(0), _stride(gate))
        constants = {"GATE": _gate_place(gate, norm_before_gate), "STRANDS": 1 + reverse_complement}
        projection = None
        if bucket == "wide":
            projection = torch.empty_like(rstd)
            _projection_kernel[(n_tokens * n_groups,)](
                *shared, projection, n_groups, group_size, weight_D.shape[0], *strides,
                **constants, **launch("rms_norm", "projection", x, bucket),
            )  # fmt: skip
        _backward_kernel[(n_programs, n_groups, n_blocks)](
            *shared, projection, dh, dx, dresidual, dgate, sums[0], sums[1] if len(sums) > 1 else None,
            n_tokens, triton.cdiv(n_tokens, n_programs), n_groups, group_size, weight_D.shape[0], *strides, _stride(dh),
            **constants, **options,
        )  # fmt: skip
    weights = [w for w in (weight_D, bias_D) if w is not None]
    gradients = [_fold(total.sum(dim=0), reverse_complement).to(w.dtype) for total, w in zip(sums, weights, strict=True)]
    return [dx, *gradients, *[gradient for gradient in (dgate, dresidual) if gradient is not None]]


def _tokens(tensor_D: Tensor) -> Tensor:
    """Return the tensor as (tokens, channels) with any distance between tokens, copied only where that cannot be."""
    rows = tensor_D.reshape(tensor_D.numel() // tensor_D.shape[-1], tensor_D.shape[-1])
    return rows if rows.stride(1) == 1 else rows.contiguous()


def _contiguous(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.contiguous()


def _stride(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.stride(0)


def _gate_place(gate: Tensor | None, norm_before_gate: bool) -> str:
    return "none" if gate is None else ("after" if norm_before_gate else "before")


def _bucket(group_size: int, largest: int) -> str:
    return next((f"D{block}" for block in _BLOCKS if group_size <= block <= largest), "wide")


def _fold(total_D: Tensor, reverse_complement: bool) -> Tensor:
    if not reverse_complement:
        return total_D
    first, second = total_D.chunk(2)
    return first + second.flip(0)


@triton.jit
def _weight_index(channels, n_weights, STRANDS: tl.constexpr):
    """The weight of each channel: that of its mirror image on the second strand, where there are two."""
    index = channels
    if STRANDS == 2:
        index = tl.where(channels < n_weights, channels, 2 * n_weights - 1 - channels)
    return index


@triton.jit
def _load(pointer, offsets, inside):
    return tl.load(pointer + offsets, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def _read(
    x_ptr, residual_ptr, gate_ptr, h_ptr, tokens, channels, inside, n_channels, x_stride, residual_stride, gate_stride,
    GATE: tl.constexpr,
):  # fmt: skip
    """Return what is normalised and the gate; x + residual is stored where there is a place for it."""
    x = _load(x_ptr, tokens * x_stride + channels, inside)
    if residual_ptr is not None:
        x += _load(residual_ptr, tokens * residual_stride + channels, inside)
        if h_ptr is not None:
            tl.store(h_ptr + tokens * n_channels + channels, x.to(h_ptr.dtype.element_ty), mask=inside)
    gate = x
    if GATE != "none":
        gate = _load(gate_ptr, tokens * gate_stride + channels, inside)
    if GATE == "before":
        x *= gate * tl.sigmoid(gate)
    return x, gate


@triton.jit
def _write(
    x, gate, rstd, weight_ptr, bias_ptr, y_ptr, offsets, channels, inside, n_weights, GATE: tl.constexpr, STRANDS: tl.constexpr
):
    index = _weight_index(channels, n_weights, STRANDS)
    y = x * rstd * _load(weight_ptr, index, inside)
    if bias_ptr is not None:
        y += _load(bias_ptr, index, inside)
    if GATE == "after":
        y *= gate * tl.sigmoid(gate)
    tl.store(y_ptr + offsets, y.to(y_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _forward_kernel(
    x_ptr, residual_ptr, gate_ptr, weight_ptr, bias_ptr, y_ptr, h_ptr, rstd_ptr,
    eps, n_rows, n_groups, size, n_weights, x_stride, residual_stride, gate_stride,
    GATE: tl.constexpr, STRANDS: tl.constexpr, ONE_BLOCK: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    rows = (tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS))[:, None]
    tokens = rows // n_groups
    channels = (rows % n_groups) * size + tl.arange(0, BLOCK)[None, :]
    cols = tl.arange(0, BLOCK)[None, :]
    n_channels = n_groups * size
    if ONE_BLOCK:
        inside = (rows < n_rows) & (cols < size)
        x, gate = _read(
            x_ptr, residual_ptr, gate_ptr, h_ptr, tokens, channels, inside, n_channels, x_stride, residual_stride,
            gate_stride, GATE,
        )  # fmt: skip
        rstd = tl.rsqrt(tl.sum(x * x, axis=1)[:, None] / size + eps)
        offsets = tokens * n_channels + channels
        _write(x, gate, rstd, weight_ptr, bias_ptr, y_ptr, offsets, channels, inside, n_weights, GATE, STRANDS)
    else:
        squares = tl.zeros([ROWS, BLOCK], dtype=tl.float32)
        for start in range(0, size, BLOCK):
            inside = (rows < n_rows) & (start + cols < size)
            x, _ = _read(
                x_ptr, residual_ptr, gate_ptr, h_ptr, tokens, channels + start, inside, n_channels, x_stride,
                residual_stride, gate_stride, GATE,
            )  # fmt: skip
            squares += x * x
        rstd = tl.rsqrt(tl.sum(squares, axis=1)[:, None] / size + eps)
        for start in range(0, size, BLOCK):
            inside = (rows < n_rows) & (start + cols < size)
            x, gate = _read(
                x_ptr, residual_ptr, gate_ptr, None, tokens, channels + start, inside, n_channels, x_stride,
                residual_stride, gate_stride, GATE,
            )  # fmt: skip
            offsets = tokens * n_channels + channels + start
            _write(x, gate, rstd, weight_ptr, bias_ptr, y_ptr, offsets, channels + start, inside, n_weights, GATE, STRANDS)
    tl.store(rstd_ptr + rows, rstd, mask=rows < n_rows)


@triton.jit
def _linear_part(
    dy_ptr, x_ptr, gate_ptr, rstd, tokens, channels, inside, dy_stride, x_stride, gate_stride, GATE: tl.constexpr
):  # fmt: skip
    """Return n = x / rms, the gradient of n * weight + bias, and the gate."""
    x, gate = _read(x_ptr, None, gate_ptr, None, tokens, channels, inside, 0, x_stride, 0, gate_stride, GATE)
    dy = _load(dy_ptr, tokens * dy_stride + channels, inside)
    if GATE == "after":
        dy *= gate * tl.sigmoid(gate)
    return x * rstd, dy, gate


@triton.jit
def _projection_kernel(
    dy_ptr, x_ptr, gate_ptr, weight_ptr, bias_ptr, rstd_ptr, projection_ptr,
    n_groups, size, n_weights, dy_stride, x_stride, gate_stride,
    GATE: tl.constexpr, STRANDS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """mean(dy * weight * n) of a row that no program can hold."""
    row = tl.program_id(0).to(tl.int64)
    rstd = tl.load(rstd_ptr + row)
    total = tl.zeros([BLOCK], dtype=tl.float32)
    for start in range(0, size, BLOCK):
        cols = start + tl.arange(0, BLOCK)
        channels = (row % n_groups) * size + cols
        n, dy, _ = _linear_part(
            dy_ptr, x_ptr, gate_ptr, rstd, row // n_groups, channels, cols < size, dy_stride, x_stride, gate_stride, GATE
        )
        weight = _load(weight_ptr, _weight_index(channels, n_weights, STRANDS), cols < size)
        total += dy * weight * n
    tl.store(projection_ptr + row, tl.sum(total) / size)


@triton.jit
def _backward_kernel(
    dy_ptr, x_ptr, gate_ptr, weight_ptr, bias_ptr, rstd_ptr, projection_ptr, dh_ptr,
    dx_ptr, dresidual_ptr, dgate_ptr, dweight_ptr, dbias_ptr,
    n_tokens, tokens_per_program, n_groups, size, n_weights, dy_stride, x_stride, gate_stride, dh_stride,
    GATE: tl.constexpr, STRANDS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Of one group (axis 1) and one block of its channels (axis 2), all tokens of this program, in order."""
    program, group = tl.program_id(0).to(tl.int64), tl.program_id(1)
    cols = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)
    channels = (group * size + cols)[None, :]
    n_channels = n_groups * size
    index = _weight_index(channels, n_weights, STRANDS)
    weight = _load(weight_ptr, index, (cols < size)[None, :])
    dweight = tl.zeros([ROWS, BLOCK], dtype=tl.float32)
    dbias = tl.zeros([ROWS, BLOCK], dtype=tl.float32)
    first = program * tokens_per_program
    last = tl.minimum(first + tokens_per_program, n_tokens)
    for start in range(first, last, ROWS):
        tokens = (start + tl.arange(0, ROWS))[:, None]
        inside = (tokens < last) & (cols < size)[None, :]
        rstd = tl.load(rstd_ptr + tokens * n_groups + group, mask=tokens < last, other=0.0)
        n, dy, gate = _linear_part(
            dy_ptr, x_ptr, gate_ptr, rstd, tokens, channels, inside, dy_stride, x_stride, gate_stride, GATE
        )
        if dh_ptr is not None:  # asked for early: it arrives while the row is summed
            dh = _load(dh_ptr, tokens * dh_stride + channels, inside)
        dweight += dy * n
        if dbias_ptr is not None:
            dbias += dy
        g = dy * weight
        if projection_ptr is None:
            mean = tl.sum(g * n, axis=1)[:, None] / size
        else:
            mean = tl.load(projection_ptr + tokens * n_groups + group, mask=tokens < last, other=0.0)
        dx = rstd * (g - n * mean)
        offsets = tokens * n_channels + channels
        if GATE != "none":
            share = tl.sigmoid(gate)
            slope = share * (1.0 + gate * (1.0 - share))
            if GATE == "before":
                dgate = dx * _load(x_ptr, tokens * x_stride + channels, inside) * slope
                dx *= gate * share
            else:
                y = n * weight
                if bias_ptr is not None:
                    y += _load(bias_ptr, index, (cols < size)[None, :])
                dgate = _load(dy_ptr, tokens * dy_stride + channels, inside) * y * slope
            tl.store(dgate_ptr + offsets, dgate.to(dgate_ptr.dtype.element_ty), mask=inside)
        if dh_ptr is not None:
            dx += dh
        tl.store(dx_ptr + offsets, dx.to(dx_ptr.dtype.element_ty), mask=inside)
        if dresidual_ptr is not None:
            tl.store(dresidual_ptr + offsets, dx.to(dresidual_ptr.dtype.element_ty), mask=inside)
    sums = program * n_channels + group * size + cols
    tl.store(dweight_ptr + sums, tl.sum(dweight, axis=0), mask=cols < size)
    if dbias_ptr is not None:
        tl.store(dbias_ptr + sums, tl.sum(dbias, axis=0), mask=cols < size)
