"""SwiGLU in Triton: one pass forward, one backward that computes the silu again."""

# Triton reads the annotations of a kernel: only tl.constexpr may stand there.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from tilth.kernels.launches import launch
from tilth.kernels.swiglu.reference import halves

_NARROW = 256


def forward(gate_up_2F: Tensor, up_F: Tensor | None) -> Tensor:
    """Return silu(gate) * up (..., F)."""
    gate, up = (_rows(t) for t in halves(gate_up_2F, up_F))
    y = torch.empty((*gate_up_2F.shape[:-1], gate.shape[1]), dtype=gate.dtype, device=gate.device)
    if y.numel():
        grid, options = _launch("forward", gate)
        _forward_kernel[grid](gate, up, y, *gate.shape, gate.stride(0), up.stride(0), **options)
    return y


def backward(dy_F: Tensor, gate_up_2F: Tensor, up_F: Tensor | None) -> list[Tensor]:
    """Return the gradient of each input."""
    gradients = [torch.empty(t.shape, dtype=t.dtype, device=t.device) for t in (gate_up_2F, up_F) if t is not None]
    gate, up = (_rows(t) for t in halves(gate_up_2F, up_F))
    # Views of the gradients: both halves of one tensor are written where they belong.
    dgate, dup = (_rows(t) for t in halves(gradients[0], None if up_F is None else gradients[1]))
    dy = _rows(dy_F)
    if dy.numel():
        grid, options = _launch("backward", gate)
        strides = (t.stride(0) for t in (dy, gate, up, dgate))
        _backward_kernel[grid](dy, gate, up, dgate, dup, *gate.shape, *strides, **options)
    return gradients


def _launch(kernel: str, gate: Tensor) -> tuple[tuple[int, int], dict[str, int]]:
    n_rows, size = gate.shape
    options = launch("swiglu", kernel, gate, "narrow" if size <= _NARROW else "wide")
    return (triton.cdiv(n_rows, options["ROWS"]), triton.cdiv(size, options["COLS"])), options


def _rows(tensor_F: Tensor) -> Tensor:
    """Return the tensor as (rows, F) with any distance between rows, copied only where that cannot be."""
    rows = tensor_F.reshape(tensor_F.numel() // tensor_F.shape[-1], tensor_F.shape[-1])
    return rows if rows.stride(1) == 1 else rows.contiguous()


@triton.jit
def _forward_kernel(
    gate_ptr, up_ptr, y_ptr, n_rows, size, gate_stride, up_stride, ROWS: tl.constexpr, COLS: tl.constexpr
):  # fmt: skip
    rows = (tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS))[:, None]
    cols = (tl.program_id(1) * COLS + tl.arange(0, COLS))[None, :]
    inside = (rows < n_rows) & (cols < size)
    gate = tl.load(gate_ptr + rows * gate_stride + cols, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(up_ptr + rows * up_stride + cols, mask=inside, other=0.0).to(tl.float32)
    y = gate * tl.sigmoid(gate) * up
    tl.store(y_ptr + rows * size + cols, y.to(y_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _backward_kernel(
    dy_ptr, gate_ptr, up_ptr, dgate_ptr, dup_ptr, n_rows, size, dy_stride, gate_stride, up_stride, d_stride,
    ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    rows = (tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS))[:, None]
    cols = (tl.program_id(1) * COLS + tl.arange(0, COLS))[None, :]
    inside = (rows < n_rows) & (cols < size)
    dy = tl.load(dy_ptr + rows * dy_stride + cols, mask=inside, other=0.0).to(tl.float32)
    gate = tl.load(gate_ptr + rows * gate_stride + cols, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(up_ptr + rows * up_stride + cols, mask=inside, other=0.0).to(tl.float32)
    share = tl.sigmoid(gate)
    silu = gate * share
    dgate = dy * up * (share + silu * (1.0 - share))
    tl.store(dgate_ptr + rows * d_stride + cols, dgate.to(dgate_ptr.dtype.element_ty), mask=inside)
    tl.store(dup_ptr + rows * d_stride + cols, (dy * silu).to(dup_ptr.dtype.element_ty), mask=inside)
