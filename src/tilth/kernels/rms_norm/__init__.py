"""`rms_norm`: divide by the root of the mean square and weigh, with what stands around it: residual, gate, groups, strands."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tilth.kernels.backend import check_device, check_float, check_shape, choose_backend, compute_dtype, direct, implementation
from tilth.kernels.rows import channels_as_rows, refuse, rows_as_channels


def rms_norm(
    x_D: Tensor,
    weight_D: Tensor,
    eps: float = 1e-5,
    *,
    bias_D: Tensor | None = None,
    residual_D: Tensor | None = None,
    gate_D: Tensor | None = None,
    norm_before_gate: bool = True,
    group_size: int | None = None,
    reverse_complement: bool = False,
    backend: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Return x / sqrt(mean(x^2) + eps) * weight + bias over the last dimension, in the dtype of `x_D`.

    Shapes: x_D (..., D), weight_D and bias_D (D,). Statistics are kept in float32 (float64 for float64 input).
    `residual_D` (as x, of its dtype or a wider one): x + residual is normalised; returned are the result and that sum,
    the new residual stream, in the dtype of the residual. Gradients flow through both.
    `gate_D` (as x, of any dtype): the result times silu(gate), or, without `norm_before_gate`, the norm of
    x * silu(gate) as in Mamba-2. `group_size` divides D: statistics over each that many channels.
    `reverse_complement`: the last dimension is 2D, and its second half holds the other strand's channels in reversed
    order, which is normalised by itself, with the weight and the bias reversed.
    Each row may have a weight of its own: weight and bias are then (B, D) for x_D (B, ..., D), and there are no strands.
    Source: Zhang and Sennrich 2019, "Root Mean Square Layer Normalization", equation 4; gate: Dao and Gu 2024, "Transformers
    are SSMs", section 7; strands: Schiff et al. 2024, "Caduceus", section 4.
    Raises ValueError for shapes or dtypes that do not fit, for a residual together with a gate (a gated norm lies inside
    its block and reads no stream), and BackendError for a backend that cannot run.
    """
    if weight_D.dim() == 2:
        refuse(reverse_complement=reverse_complement)
        _check_rows(x_D, weight_D, bias_D)
        options: dict[str, Any] = {
            "norm_before_gate": norm_before_gate,
            "group_size": group_size or weight_D.shape[1],
            "backend": backend,
        }
        given = {"bias_D": bias_D, "residual_D": residual_D, "gate_D": gate_D}
        options |= {name: rows_as_channels(tensor) for name, tensor in given.items() if tensor is not None}
        found = rms_norm(rows_as_channels(x_D), rows_as_channels(weight_D), eps, **options)
        return _by_rows(found, len(x_D))
    group = _check(x_D, weight_D, bias_D, residual_D, gate_D, norm_before_gate, group_size, reverse_complement)
    backend = choose_backend(x_D, backend)
    y_D, h_D, _ = direct(_rms_norm)(
        x_D, weight_D, bias_D, residual_D, gate_D, eps, norm_before_gate, group, reverse_complement, backend
    )
    return y_D if residual_D is None else (y_D, h_D)


def _by_rows(found: Tensor | tuple[Tensor, Tensor], n_rows: int) -> Tensor | tuple[Tensor, Tensor]:
    if isinstance(found, tuple):
        return channels_as_rows(found[0], n_rows), channels_as_rows(found[1], n_rows)
    return channels_as_rows(found, n_rows)


def _check_rows(x_D: Tensor, weight_BD: Tensor, bias_BD: Tensor | None) -> None:
    if x_D.dim() < 2:
        raise ValueError(f"x_D has shape {tuple(x_D.shape)}; expected (B, ..., D), as each row has a weight")
    shape = (x_D.shape[0], x_D.shape[-1])
    check_shape("weight_D", weight_BD, shape, "B, D")
    if bias_BD is not None:
        check_shape("bias_D", bias_BD, shape, "B, D")


def _check(
    x_D: Tensor,
    weight_D: Tensor,
    bias_D: Tensor | None,
    residual_D: Tensor | None,
    gate_D: Tensor | None,
    norm_before_gate: bool,
    group_size: int | None,
    reverse_complement: bool,
) -> int:
    """Return the number of channels over which statistics are taken."""
    others = {"weight_D": weight_D, "bias_D": bias_D, "residual_D": residual_D, "gate_D": gate_D}
    for name, tensor in {"x_D": x_D, **others}.items():
        if tensor is not None:
            check_float(name, tensor)
    n_strands = 2 if reverse_complement else 1
    if x_D.dim() == 0 or x_D.shape[-1] == 0:
        raise ValueError(f"x_D has shape {tuple(x_D.shape)}; expected a last dimension of at least 1")
    if x_D.shape[-1] % n_strands:
        raise ValueError(f"x_D has {x_D.shape[-1]} channels; with reverse_complement an even number was expected, two strands")
    size = x_D.shape[-1] // n_strands
    check_shape("weight_D", weight_D, (size,), "D")
    if bias_D is not None:
        check_shape("bias_D", bias_D, (size,), "D")
    for name, tensor in (("residual_D", residual_D), ("gate_D", gate_D)):
        if tensor is not None:
            check_shape(name, tensor, tuple(x_D.shape), "as x_D")
    if residual_D is not None and torch.promote_types(residual_D.dtype, x_D.dtype) != residual_D.dtype:
        raise ValueError(f"residual_D is {residual_D.dtype}; expected a dtype that holds the values of x_D, {x_D.dtype}")
    if residual_D is not None and gate_D is not None:
        raise ValueError("residual_D and gate_D were both given; expected at most one of them")
    if gate_D is None and not norm_before_gate:
        raise ValueError("norm_before_gate is False, but there is no gate_D")
    if group_size is not None and (group_size < 1 or size % group_size):
        raise ValueError(f"group_size is {group_size}; expected a divisor of D = {size}")
    check_device(x_D, **others)
    return group_size or size


@torch.library.custom_op("tilth::rms_norm", mutates_args=())
def _rms_norm(
    x_D: Tensor,
    weight_D: Tensor,
    bias_D: Tensor | None,
    residual_D: Tensor | None,
    gate_D: Tensor | None,
    eps: float,
    norm_before_gate: bool,
    group_size: int,
    reverse_complement: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """Second output: x + residual, empty without one. Third: 1 / rms of each group (..., groups), for the backward."""
    module = implementation("rms_norm", backend)
    return module.forward(x_D, weight_D, bias_D, residual_D, gate_D, eps, norm_before_gate, group_size, reverse_complement)


@torch.library.custom_op("tilth::rms_norm_backward", mutates_args=())
def _rms_norm_backward(
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
    backend: str,
) -> list[Tensor]:
    """Return dx in `dtype`, dweight, and those of dbias, dgate and dresidual that there are.

    `x_D` is x + residual where there was one (then `dh_D` is the gradient of that sum), and dresidual is returned only
    where its dtype differs from `dtype`: it has the values of dx.
    """
    module = implementation("rms_norm", backend)
    return module.backward(
        dy_D, dh_D, x_D, weight_D, bias_D, gate_D, rstd, dtype, eps, norm_before_gate, group_size, reverse_complement
    )


@_rms_norm.register_fake
def _(
    x_D: Tensor,
    weight_D: Tensor,
    bias_D: Tensor | None,
    residual_D: Tensor | None,
    gate_D: Tensor | None,
    eps: float,
    norm_before_gate: bool,
    group_size: int,
    reverse_complement: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    dtype = compute_dtype(*[t for t in (x_D, weight_D, bias_D, residual_D, gate_D) if t is not None])
    h_D = x_D.new_empty(0) if residual_D is None else residual_D.new_empty(residual_D.shape)
    n_groups = x_D.shape[-1] // group_size
    return x_D.new_empty(x_D.shape), h_D, x_D.new_empty((*x_D.shape[:-1], n_groups), dtype=dtype)


@_rms_norm_backward.register_fake
def _(
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
    backend: str,
) -> list[Tensor]:
    gradients = [x_D.new_empty(x_D.shape, dtype=dtype)]
    gradients += [tensor.new_empty(tensor.shape) for tensor in (weight_D, bias_D, gate_D) if tensor is not None]
    return gradients + ([x_D.new_empty(x_D.shape)] if x_D.dtype != dtype else [])


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    x_D, weight_D, bias_D, residual_D, gate_D, *ctx.options = inputs
    _, h_D, rstd = output
    ctx.mark_non_differentiable(rstd, *([h_D] if residual_D is None else []))
    ctx.dtype, ctx.has_residual = x_D.dtype, residual_D is not None
    ctx.save_for_backward(x_D if residual_D is None else h_D, weight_D, bias_D, gate_D, rstd)


def _differentiate(ctx: Any, dy_D: Tensor, dh_D: Tensor, _drstd: Tensor) -> tuple[Tensor | None, ...]:
    saved = ctx.saved_tensors  # asked for once: activation checkpointing gives them once
    _, _, bias_D, gate_D, _ = saved
    found = _rms_norm_backward(dy_D, dh_D if ctx.has_residual else None, *saved, ctx.dtype, *ctx.options)
    dx, dweight = found[:2]
    rest = iter(found[2:])
    dbias = None if bias_D is None else next(rest)
    dgate = None if gate_D is None else next(rest)
    dresidual = next(rest, dx) if ctx.has_residual else None
    return dx, dweight, dbias, dresidual, dgate, None, None, None, None, None


_rms_norm.register_autograd(_differentiate, setup_context=_save)
