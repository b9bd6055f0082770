"""`rms_norm`: divide by the root of the mean square over the last dimension, times a weight."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tilth.kernels.backend import check_device, check_float, check_shape, choose_backend, implementation


def rms_norm(x_D: Tensor, weight_D: Tensor, eps: float = 1e-5) -> Tensor:
    """Return x / sqrt(mean(x^2) + eps) * weight over the last dimension, in the dtype of `x_D`.

    Shapes: x_D (..., D), weight_D (D,). Statistics are kept in float32 (float64 for float64 input).
    Source: Zhang and Sennrich 2019, "Root Mean Square Layer Normalization", equation 4.
    Raises ValueError for shapes or dtypes that do not fit, BackendError for a backend that cannot run.
    """
    check_float("x_D", x_D)
    check_float("weight_D", weight_D)
    if x_D.dim() == 0 or x_D.shape[-1] == 0:
        raise ValueError(f"x_D has shape {tuple(x_D.shape)}; expected a last dimension of at least 1")
    check_shape("weight_D", weight_D, (x_D.shape[-1],), "D")
    check_device(x_D, weight_D=weight_D)
    y_D, _ = _rms_norm(x_D, weight_D, eps, choose_backend(x_D))
    return y_D


@torch.library.custom_op("tilth::rms_norm", mutates_args=())
def _rms_norm(x_D: Tensor, weight_D: Tensor, eps: float, backend: str) -> tuple[Tensor, Tensor]:
    return implementation("rms_norm", backend).forward(x_D, weight_D, eps)


@torch.library.custom_op("tilth::rms_norm_backward", mutates_args=())
def _rms_norm_backward(
    dy_D: Tensor, x_D: Tensor, weight_D: Tensor, rstd: Tensor, eps: float, backend: str
) -> tuple[Tensor, Tensor]:
    return implementation("rms_norm", backend).backward(dy_D, x_D, weight_D, rstd, eps)


@_rms_norm.register_fake
def _(x_D: Tensor, weight_D: Tensor, eps: float, backend: str) -> tuple[Tensor, Tensor]:
    dtype = torch.float64 if torch.float64 in (x_D.dtype, weight_D.dtype) else torch.float32
    return x_D.new_empty(x_D.shape), x_D.new_empty((*x_D.shape[:-1], 1), dtype=dtype)


@_rms_norm_backward.register_fake
def _(dy_D: Tensor, x_D: Tensor, weight_D: Tensor, rstd: Tensor, eps: float, backend: str) -> tuple[Tensor, Tensor]:
    return x_D.new_empty(x_D.shape), weight_D.new_empty(weight_D.shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x_D, weight_D, ctx.eps, ctx.backend = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(x_D, weight_D, output[1])


def _differentiate(ctx: Any, dy_D: Tensor, _drstd: Tensor) -> tuple[Tensor, Tensor, None, None]:
    dx_D, dweight_D = _rms_norm_backward(dy_D, *ctx.saved_tensors, ctx.eps, ctx.backend)
    return dx_D, dweight_D, None, None


_rms_norm.register_autograd(_differentiate, setup_context=_save)
