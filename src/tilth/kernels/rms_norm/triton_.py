"""RMSNorm in Triton: one pass per row forward, one pass per row backward with partial sums for the weight."""

# Triton reads the annotations of a kernel: only tl.constexpr may stand there.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

# Enough programs to fill a large GPU twice; fixed, so that the order of summation never depends on the machine.
_MAX_BACKWARD_PROGRAMS = 256
_MAX_SIZE = 32768


def forward(x_D: Tensor, weight_D: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return the normalised tensor (..., D) and the reciprocal root mean square (..., 1)."""
    x = _rows(x_D)
    y, rstd = torch.empty_like(x), torch.empty((x.shape[0], 1), dtype=torch.float32, device=x.device)
    if x.shape[0]:
        block, n_warps = _configure(x.shape[1])
        _forward_kernel[(x.shape[0],)](x, weight_D.contiguous(), y, rstd, eps, x.shape[1], BLOCK=block, num_warps=n_warps)
    return y.reshape(x_D.shape), rstd.reshape(*x_D.shape[:-1], 1)


def backward(dy_D: Tensor, x_D: Tensor, weight_D: Tensor, rstd: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return the gradients of x (..., D) and weight (D,)."""
    x, dy = _rows(x_D), _rows(dy_D)
    n_rows, size = x.shape
    dx = torch.empty_like(x)
    n_programs = min(n_rows, _MAX_BACKWARD_PROGRAMS)
    dweight_parts = torch.empty((n_programs, size), dtype=torch.float32, device=x.device)
    if n_rows:
        block, n_warps = _configure(size)
        _backward_kernel[(n_programs,)](
            dy,
            x,
            weight_D.contiguous(),
            rstd,
            dx,
            dweight_parts,
            n_rows,
            triton.cdiv(n_rows, n_programs),
            size,
            BLOCK=block,
            num_warps=n_warps,
        )
    return dx.reshape(x_D.shape), dweight_parts.sum(dim=0).to(weight_D.dtype)


@triton.jit
def _forward_kernel(x_ptr, weight_ptr, y_ptr, rstd_ptr, eps, size, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    cols = tl.arange(0, BLOCK)
    inside = cols < size
    x = tl.load(x_ptr + row * size + cols, mask=inside, other=0.0).to(tl.float32)
    weight = tl.load(weight_ptr + cols, mask=inside, other=0.0).to(tl.float32)
    rstd = 1.0 / tl.sqrt(tl.sum(x * x, axis=0) / size + eps)
    tl.store(y_ptr + row * size + cols, (x * rstd * weight).to(y_ptr.dtype.element_ty), mask=inside)
    tl.store(rstd_ptr + row, rstd)


@triton.jit
def _backward_kernel(
    dy_ptr, x_ptr, weight_ptr, rstd_ptr, dx_ptr, dweight_ptr, n_rows, rows_per_program, size, BLOCK: tl.constexpr
):
    program = tl.program_id(0).to(tl.int64)
    cols = tl.arange(0, BLOCK)
    inside = cols < size
    weight = tl.load(weight_ptr + cols, mask=inside, other=0.0).to(tl.float32)
    dweight = tl.zeros([BLOCK], dtype=tl.float32)
    first = program * rows_per_program
    for step in range(tl.minimum(rows_per_program, n_rows - first)):
        row = first + step
        x = tl.load(x_ptr + row * size + cols, mask=inside, other=0.0).to(tl.float32)
        dy = tl.load(dy_ptr + row * size + cols, mask=inside, other=0.0).to(tl.float32)
        rstd = tl.load(rstd_ptr + row)
        n = x * rstd
        g = dy * weight
        dx = rstd * (g - n * (tl.sum(g * n, axis=0) / size))
        tl.store(dx_ptr + row * size + cols, dx.to(dx_ptr.dtype.element_ty), mask=inside)
        dweight += dy * n
    tl.store(dweight_ptr + program * size + cols, dweight, mask=inside)


def _rows(tensor_D: Tensor) -> Tensor:
    n_rows = tensor_D.numel() // tensor_D.shape[-1]
    return tensor_D.reshape(n_rows, tensor_D.shape[-1]).contiguous()


def _configure(size: int) -> tuple[int, int]:
    """Return the block (a power of two that holds a whole row) and the number of warps."""
    if size > _MAX_SIZE:
        raise ValueError(f"the Triton rms_norm holds a row in registers: D is {size}, at most {_MAX_SIZE}")
    block = triton.next_power_of_2(size)
    return block, min(max(block // 512, 1), 16)
