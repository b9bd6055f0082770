"""Products of matrices: on the CPU in float32 by oneDNN, twice as fast as torch's own where MKL does not know the CPU's maker.

torch multiplies float32 matrices by MKL, which keeps to AVX2 on AMD's CPUs: 110 GFLOP/s a core of EPYC (Zen 5), where
oneDNN's AVX-512 kernels reach 250, in float32 as well. torch calls oneDNN for 16-bit factors only, but has it as an operator.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

# Multiply-adds of a product below which a call of oneDNN costs more than it saves.
_FEWEST = 1 << 20
# For `rows_apart`: the values of a weight from which oneDNN multiplies, and the fewest rows that each library takes as many.
_FEWEST_OF_ROWS = 1 << 16
_ROWS_ONEDNN, _ROWS_TORCH = 2, 4
# A plain global, as in backend.py: torch.compile guards on it.
_rows_are_apart = False
_HAS_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


@contextmanager
def rows_apart() -> Iterator[None]:
    """Inside the block (the whole process, not a thread) a row of `linear` on the CPU has the same bits among any other rows,
    in float32 and bfloat16 on one thread; otherwise to rounding.

    The libraries have kernels of their own for one row, and MKL for two and three; from there on a row's sum is made in one
    order, which is measured and tested, not promised by them. So few rows are padded, and the library is chosen by the weight
    alone. A single row then costs up to twice its time; from four rows on nothing. Without a gradient.
    """
    global _rows_are_apart
    previous, _rows_are_apart = _rows_are_apart, True
    try:
        yield
    finally:
        _rows_are_apart = previous


def linear(x_K: Tensor, weight_NK: Tensor) -> Tensor:
    """Return x (..., K) @ weight^T (..., N), differentiable in both; torch's own linear where oneDNN would gain nothing."""
    if _rows_are_apart and x_K.device.type == "cpu" and not torch.is_grad_enabled():
        return _linear_of_rows(x_K, weight_NK)
    if not _gains(x_K, weight_NK, len(weight_NK)):
        return functional.linear(x_K, weight_NK)
    if torch.is_grad_enabled() and (x_K.requires_grad or weight_NK.requires_grad):
        return _linear(x_K, weight_NK)
    return _multiply(x_K, weight_NK)


def _linear_of_rows(x_K: Tensor, weight_NK: Tensor) -> Tensor:
    x_MK = x_K.flatten(0, -2)
    by_onednn = _HAS_ONEDNN and x_K.dtype == weight_NK.dtype == torch.float32 and weight_NK.numel() >= _FEWEST_OF_ROWS
    n_rows, fewest = len(x_MK), _ROWS_ONEDNN if by_onednn else _ROWS_TORCH
    if n_rows < fewest:
        x_MK = functional.pad(x_MK, (0, 0, 0, fewest - n_rows))
    y_MN: Tensor = _by_onednn(x_MK, weight_NK) if by_onednn else functional.linear(x_MK, weight_NK)
    return y_MN[:n_rows].view(*x_K.shape[:-1], len(weight_NK))


def product(a_MK: Tensor, b_KN: Tensor, out: Tensor | None = None) -> Tensor:
    """Return a @ b of two matrices, in `out` if given, without a gradient."""
    if not _gains(a_MK, b_KN, b_KN.shape[1]):
        return torch.mm(a_MK, b_KN) if out is None else torch.mm(a_MK, b_KN, out=out)
    found = _multiply(a_MK, b_KN.T)
    return found if out is None else out.copy_(found)


def outer_product(a_SM: Tensor, b_SN: Tensor) -> Tensor:
    """Return a^T @ b, the sum of the outer products of their rows (M, N), without a gradient."""
    if not _gains(a_SM, b_SN, b_SN.shape[1]):
        return a_SM.T @ b_SN
    # oneDNN cuts its second factor into panels along the result's columns: the longer side must be those
    if a_SM.shape[1] > b_SN.shape[1]:
        return _multiply(b_SN.T, a_SM.T).T.contiguous()
    return _multiply(a_SM.T, b_SN.T)


@torch.library.custom_op("tilth::linear", mutates_args=())
def _linear(x_K: Tensor, weight_NK: Tensor) -> Tensor:
    return _by_onednn(x_K, weight_NK)


@_linear.register_fake
def _(x_K: Tensor, weight_NK: Tensor) -> Tensor:
    return x_K.new_empty(*x_K.shape[:-1], len(weight_NK))


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _differentiate(ctx: Any, dy_N: Tensor) -> tuple[Tensor | None, Tensor | None]:
    (x_K, weight_NK), dy_SN = ctx.saved_tensors, dy_N.flatten(0, -2)
    dx_K = product(dy_SN, weight_NK).view(x_K.shape) if ctx.needs_input_grad[0] else None
    return dx_K, outer_product(dy_SN, x_K.flatten(0, -2)) if ctx.needs_input_grad[1] else None


_linear.register_autograd(_differentiate, setup_context=_save)


def _gains(left: Tensor, right: Tensor, n_columns: int) -> bool:
    return (
        _HAS_ONEDNN
        and left.device.type == "cpu"
        and left.dtype == right.dtype == torch.float32
        and left.dim() > 1
        and left.numel() * n_columns >= _FEWEST
        and not torch.is_autocast_enabled("cpu")
    )


def _multiply(x_K: Tensor, weight_NK: Tensor) -> Tensor:
    # Inductor knows this operator, but only for a weight that never changes: what it traces it must not see.
    run = _linear if torch.compiler.is_compiling() else _by_onednn
    found: Tensor = run(x_K, weight_NK)
    return found


def _by_onednn(x_K: Tensor, weight_NK: Tensor) -> Tensor:
    found: Tensor = torch.ops.mkldnn._linear_pointwise(x_K, weight_NK, None, "none", [], "")
    return found
