"""`ssd_scan`: the state-space recurrence of Mamba-2, in chunks, with packed documents and initial states."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from tilth.kernels.backend import choose_backend, compute_dtype, implementation
from tilth.kernels.ssd_scan.inputs import OPTION_SCHEMA, TENSOR_SCHEMA, ScanInputs, ScanOptions, kept_states

_N_TENSORS, _N_OPTIONS = len(ScanInputs._fields), len(ScanOptions._fields)
_N_DIFFERENTIABLE = 9


def ssd_scan(
    x_BTHP: Tensor,
    dt_BTH: Tensor,
    A_H: Tensor,
    B_BTGN: Tensor,
    C_BTGN: Tensor,
    *,
    D_H: Tensor | None = None,
    z_BTHP: Tensor | None = None,
    dt_bias_H: Tensor | None = None,
    dt_softplus: bool = False,
    dt_limit: tuple[float, float] = (0.0, math.inf),
    segments_BT: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    initial_state_BHPN: Tensor | None = None,
    reverse: bool = False,
    chunk_size: int = 64,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Return (y_BTHP in the dtype of x, final_state_BHPN in float32, or float64 for float64 input).

    S_t = exp(dt_t A) S_{t-1} + dt_t x_t B_t^T and y_t = (S_t C_t + D x_t) silu(z_t), with A negative and dt_t the given
    step plus `dt_bias_H`, through softplus if `dt_softplus`, kept within `dt_limit`. Head h reads group h // (H // G) of
    B and C; D is (H,) or (H, P). With `reverse` the recurrence runs from the last token to the first.
    Packed documents do not mix. Either `segments_BT` (int32) changes where a document begins: the initial state belongs
    to the document that is read first in each row, the final state to the one read last. Or `cu_seqlens` (int32, from 0
    to T, never falling; B is 1) bounds the documents, which may be empty, and each has an initial and a final state of
    its own: (documents, H, P, N). `chunk_size` changes the speed and the rounding, not the meaning.
    Source: Dao and Gu 2024, "Transformers are SSMs", sections 6 and 7.
    Raises ValueError for shapes, dtypes or bounds that do not fit, BackendError for a backend that cannot run.
    """
    inputs = ScanInputs(x_BTHP, dt_BTH, A_H, B_BTGN, C_BTGN, D_H, z_BTHP, dt_bias_H, initial_state_BHPN, segments_BT, cu_seqlens)
    inputs.check()
    if chunk_size < 1:
        raise ValueError(f"chunk_size is {chunk_size}; expected at least 1")
    low, high = dt_limit
    if not low <= high:
        raise ValueError(f"dt_limit is {dt_limit}; expected two numbers, the smaller one first")
    is_kept = torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in inputs.differentiable)
    options = ScanOptions(dt_softplus, float(low), float(high), reverse, chunk_size, is_kept)
    y_BTHP, final_state_BHPN, _, _ = _ssd_scan(*inputs, *options, choose_backend(x_BTHP, backend))
    return y_BTHP, final_state_BHPN


@torch.library.custom_op(
    "tilth::ssd_scan",
    mutates_args=(),
    schema=f"({TENSOR_SCHEMA}, {OPTION_SCHEMA}, str backend) -> (Tensor, Tensor, Tensor, Tensor)",
)
def _ssd_scan(*arguments: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Third and fourth output, kept for the backward: the states that enter the chunks, and y before the gate."""
    inputs, options, backend = _parse(arguments)
    inputs.check_bounds()
    result: tuple[Tensor, Tensor, Tensor, Tensor] = implementation("ssd_scan", backend).forward(inputs, options)
    return result


@torch.library.custom_op(
    "tilth::ssd_scan_backward",
    mutates_args=(),
    schema=f"(Tensor dy_BTHP, Tensor dfinal_BHPN, Tensor kept, Tensor ungated, {TENSOR_SCHEMA}, {OPTION_SCHEMA}, str backend)"
    f" -> ({', '.join(['Tensor'] * _N_DIFFERENTIABLE)})",
)
def _ssd_scan_backward(
    dy_BTHP: Tensor, dfinal_BHPN: Tensor, kept: Tensor, ungated: Tensor, *arguments: Any
) -> tuple[Tensor, ...]:
    """The gradients of the differentiable inputs; empty for those that were not given."""
    inputs, options, backend = _parse(arguments)
    found = implementation("ssd_scan", backend).backward(dy_BTHP, dfinal_BHPN, inputs, kept, ungated, options)
    # An operator's outputs must not share memory, so each absent one is a tensor of its own.
    return tuple(dy_BTHP.new_empty((0,)) if gradient is None else gradient for gradient in found)


def _parse(arguments: tuple[Any, ...]) -> tuple[ScanInputs, ScanOptions, str]:
    *values, backend = arguments
    return ScanInputs(*values[:_N_TENSORS]), ScanOptions(*values[_N_TENSORS:]), backend


@_ssd_scan.register_fake
def _(*arguments: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    inputs, options, backend = _parse(arguments)
    x_BTHP = inputs.x_BTHP
    final_shape = (inputs.n_states, *x_BTHP.shape[2:], inputs.B_BTGN.shape[-1])
    is_ungated_kept = inputs.z_BTHP is not None and options.is_kept and backend != "reference"
    return (
        x_BTHP.new_empty(x_BTHP.shape),
        x_BTHP.new_empty(final_shape, dtype=compute_dtype(x_BTHP)),
        kept_states(inputs, options, backend),
        x_BTHP.new_empty(x_BTHP.shape if is_ungated_kept else (0,)),
    )


@_ssd_scan_backward.register_fake
def _(dy_BTHP: Tensor, _dfinal: Tensor, _kept: Tensor, _ungated: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    inputs, _, _ = _parse(arguments)
    return tuple(dy_BTHP.new_empty((0,)) if t is None else t.new_empty(t.shape) for t in inputs.differentiable)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    ctx.options = inputs[_N_TENSORS:]
    ctx.mark_non_differentiable(*output[2:])
    ctx.save_for_backward(*output[2:], *inputs[:_N_TENSORS])


def _differentiate(ctx: Any, dy_BTHP: Tensor, dfinal_BHPN: Tensor, *_unused: Tensor) -> tuple[Tensor | None, ...]:
    saved = ctx.saved_tensors  # asked for once: activation checkpointing gives them once
    _, _, *tensors = saved
    found = _ssd_scan_backward(dy_BTHP, dfinal_BHPN, *saved, *ctx.options)
    gradients = [None if tensor is None else gradient for tensor, gradient in zip(tensors, found, strict=False)]
    return *gradients, *[None] * (_N_TENSORS - _N_DIFFERENTIABLE + _N_OPTIONS + 1)


_ssd_scan.register_autograd(_differentiate, setup_context=_save)
