"""`selective_scan`: the state-space recurrence of Mamba, one decay for each channel and state, in either direction."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tilth.kernels.backend import choose_backend, compute_dtype, implementation
from tilth.kernels.selective_scan.inputs import SelectiveInputs, StepInputs

# Written out, so that the functions below need not repeat it: torch would infer it from their signatures.
_INPUTS = (
    "Tensor u_BTC, Tensor dt_BTC, Tensor A_CN, Tensor B_BTGN, Tensor C_BTGN, Tensor? D_C, Tensor? z_BTC, "
    "Tensor? dt_bias_C, Tensor? segments_BT, Tensor? initial_state_BCN"
)
_OPTIONS = "bool dt_softplus, bool reverse, str backend"


def selective_scan(
    u_BTC: Tensor,
    dt_BTC: Tensor,
    A_CN: Tensor,
    B_BTGN: Tensor,
    C_BTGN: Tensor,
    *,
    D_C: Tensor | None = None,
    z_BTC: Tensor | None = None,
    dt_bias_C: Tensor | None = None,
    dt_softplus: bool = False,
    segments_BT: Tensor | None = None,
    initial_state_BCN: Tensor | None = None,
    reverse: bool = False,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Return (y_BTC in the dtype of u, final_state_BCN in float32, or float64 for float64 input).

    h_t = exp(d_t A) h_{t-1} + d_t u_t B_t and y_t = (h_t C_t + D u_t) silu(z_t), where d = dt + dt_bias, through softplus
    if `dt_softplus`, must be positive, and A negative. Channel c reads group c // (C // G) of B and C. Where
    `segments_BT` (int32) changes along T the state is reset; the initial state belongs to the first document of each
    row and the final state to the last. With `reverse` time runs the other way: the state comes from the tokens after,
    the initial state from behind the last token, and the final one is that of token 0.
    Source: Gu and Dao 2023, "Mamba", algorithm 2.
    Raises ValueError for shapes, dtypes or devices that do not fit, BackendError for a backend that cannot run.
    """
    inputs = SelectiveInputs(u_BTC, dt_BTC, A_CN, B_BTGN, C_BTGN, D_C, z_BTC, dt_bias_C, segments_BT, initial_state_BCN)
    inputs.check()
    y_BTC, final_state_BCN, _ = _selective_scan(*inputs, dt_softplus, reverse, choose_backend(u_BTC, backend))
    return y_BTC, final_state_BCN


def selective_step(
    u_BC: Tensor,
    state_BCN: Tensor,
    dt_BC: Tensor,
    A_CN: Tensor,
    B_BGN: Tensor,
    C_BGN: Tensor,
    *,
    D_C: Tensor | None = None,
    z_BC: Tensor | None = None,
    dt_bias_C: Tensor | None = None,
    dt_softplus: bool = False,
    state_indices_B: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """Return y_BC of one more token of the scan, in the dtype of u, for decoding.

    `state_BCN` is replaced in place by the state after the token. With `state_indices_B` (int32 or int64) row b uses the
    state of that index, so `state_BCN` may hold any number of states; no two rows may use the same one, and a row of
    index -1 is skipped: its outputs are 0. No gradient flows. Each row may have parameters of its own: then A is (B, C, N),
    D and dt_bias are (B, C), and there are no indices.
    Raises ValueError for shapes, dtypes or devices that do not fit, BackendError for a backend that cannot run.
    """
    inputs = StepInputs(u_BC, state_BCN, dt_BC, A_CN, B_BGN, C_BGN, D_C, z_BC, dt_bias_C, state_indices_B)
    inputs.check()
    if A_CN.dim() == 3:
        inputs = inputs.one_row()
    return _selective_step(*inputs, dt_softplus, choose_backend(u_BC, backend)).view(u_BC.shape)


@torch.library.custom_op("tilth::selective_scan", mutates_args=(), schema=f"({_INPUTS}, {_OPTIONS}) -> (Tensor, Tensor, Tensor)")
def _selective_scan(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Third output: the state that enters each chunk (B, n_chunks, C, N), kept for the backward; the reference has none."""
    *tensors, dt_softplus, reverse, backend = arguments
    return implementation("selective_scan", backend).forward(SelectiveInputs(*tensors), dt_softplus, reverse)


@torch.library.custom_op(
    "tilth::selective_scan_backward",
    mutates_args=(),
    schema=f"(Tensor dy_BTC, Tensor dfinal_BCN, {_INPUTS}, Tensor states_BcCN, {_OPTIONS})"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)
def _selective_scan_backward(dy_BTC: Tensor, dfinal_BCN: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    """The gradients of all inputs but the documents, in their order; empty where not given."""
    *tensors, states_BcCN, dt_softplus, reverse, backend = arguments
    module = implementation("selective_scan", backend)
    return module.backward(dy_BTC, dfinal_BCN, SelectiveInputs(*tensors), states_BcCN, dt_softplus, reverse)


@torch.library.custom_op("tilth::selective_step", mutates_args=("state_BCN",))
def _selective_step(
    u_BC: Tensor,
    state_BCN: Tensor,
    dt_BC: Tensor,
    A_CN: Tensor,
    B_BGN: Tensor,
    C_BGN: Tensor,
    D_C: Tensor | None,
    z_BC: Tensor | None,
    dt_bias_C: Tensor | None,
    state_indices_B: Tensor | None,
    dt_softplus: bool,
    backend: str,
) -> Tensor:
    inputs = StepInputs(u_BC, state_BCN, dt_BC, A_CN, B_BGN, C_BGN, D_C, z_BC, dt_bias_C, state_indices_B)
    return implementation("selective_scan", backend).step(inputs, dt_softplus)


@_selective_scan.register_fake
def _(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    *tensors, _dt_softplus, _reverse, backend = arguments
    inputs = SelectiveInputs(*tensors)
    u_BTC, dtype = inputs.u_BTC, compute_dtype(inputs.u_BTC)
    n_batch, _, n_channels = u_BTC.shape
    state = (n_channels, inputs.A_CN.shape[1])
    states_shape = (0,) if backend == "reference" else (n_batch, inputs.n_chunks, *state)
    return (
        u_BTC.new_empty(u_BTC.shape),
        u_BTC.new_empty((n_batch, *state), dtype=dtype),
        u_BTC.new_empty(states_shape, dtype=dtype),
    )


@_selective_scan_backward.register_fake
def _(dy_BTC: Tensor, _dfinal_BCN: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    inputs = SelectiveInputs(*arguments[: len(SelectiveInputs._fields)])
    differentiable = (*inputs[:8], inputs.initial_state_BCN)
    return tuple(dy_BTC.new_empty((0,)) if t is None else t.new_empty(t.shape) for t in differentiable)


@_selective_step.register_fake
def _(u_BC: Tensor, *_arguments: Any) -> Tensor:
    return u_BC.new_empty(u_BC.shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    *tensors, ctx.dt_softplus, ctx.reverse, ctx.backend = inputs
    ctx.mark_non_differentiable(output[2])
    ctx.save_for_backward(*tensors, output[2])


def _differentiate(ctx: Any, dy_BTC: Tensor, dfinal_BCN: Tensor, _dstates: Tensor) -> tuple[Tensor | None, ...]:
    *tensors, states_BcCN = ctx.saved_tensors
    found = _selective_scan_backward(dy_BTC, dfinal_BCN, *tensors, states_BcCN, ctx.dt_softplus, ctx.reverse, ctx.backend)
    gradients: list[Tensor | None] = list(found)
    gradients.insert(8, None)  # the documents
    gradients = [None if tensor is None else gradient for tensor, gradient in zip(tensors, gradients, strict=True)]
    return (*gradients, None, None, None)


_selective_scan.register_autograd(_differentiate, setup_context=_save)
