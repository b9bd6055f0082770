"""`ssd_scan`: the state-space recurrence of Mamba-2, in chunks, with packed documents and initial states."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tilth.kernels.backend import choose_backend, compute_dtype, implementation
from tilth.kernels.ssd_scan.inputs import ScanInputs

# Written out, so that the functions below need not repeat it: torch would infer it from their signatures.
_INPUTS = (
    "Tensor x_BTHP, Tensor dt_BTH, Tensor A_H, Tensor B_BTGN, Tensor C_BTGN, "
    "Tensor? D_H, Tensor? segments_BT, Tensor? initial_state_BHPN"
)


def ssd_scan(
    x_BTHP: Tensor,
    dt_BTH: Tensor,
    A_H: Tensor,
    B_BTGN: Tensor,
    C_BTGN: Tensor,
    *,
    D_H: Tensor | None = None,
    segments_BT: Tensor | None = None,
    initial_state_BHPN: Tensor | None = None,
    chunk_size: int = 64,
) -> tuple[Tensor, Tensor]:
    """Return (y_BTHP in the dtype of x, final_state_BHPN in float32, or float64 for float64 input).

    S_t = exp(dt_t A) S_{t-1} + dt_t x_t B_t^T and y_t = S_t C_t + D x_t, with dt positive (already through softplus)
    and A negative. Head h reads group h // (H // G) of B and C. Where `segments_BT` (int32) changes along T the state
    is reset, so that packed documents do not mix; the initial state belongs to the first segment of each row and the
    final state to the last. `chunk_size` changes the speed and the rounding, not the meaning.
    Source: Dao and Gu 2024, "Transformers are SSMs", sections 6 and 7.
    Raises ValueError for shapes or dtypes that do not fit, BackendError for a backend that cannot run.
    """
    inputs = ScanInputs(x_BTHP, dt_BTH, A_H, B_BTGN, C_BTGN, D_H, segments_BT, initial_state_BHPN)
    inputs.check()
    if chunk_size < 1:
        raise ValueError(f"chunk_size is {chunk_size}; expected at least 1")
    y_BTHP, final_state_BHPN, _ = _ssd_scan(*inputs, chunk_size, choose_backend(x_BTHP))
    return y_BTHP, final_state_BHPN


@torch.library.custom_op(
    "tilth::ssd_scan", mutates_args=(), schema=f"({_INPUTS}, int chunk_size, str backend) -> (Tensor, Tensor, Tensor)"
)
def _ssd_scan(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Third output: the state that enters each chunk (B, n_chunks, H, P, N), kept for the backward; the reference has none."""
    *tensors, chunk_size, backend = arguments
    return implementation("ssd_scan", backend).forward(ScanInputs(*tensors), chunk_size)


@torch.library.custom_op(
    "tilth::ssd_scan_backward",
    mutates_args=(),
    schema=f"(Tensor dy_BTHP, Tensor dfinal_BHPN, {_INPUTS}, Tensor states_BCHPN, int chunk_size, str backend)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)
def _ssd_scan_backward(dy_BTHP: Tensor, dfinal_BHPN: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    """The gradients of x, dt, A, B, C, D and the initial state; the last two are empty where not given."""
    *tensors, states_BCHPN, chunk_size, backend = arguments
    module = implementation("ssd_scan", backend)
    return module.backward(dy_BTHP, dfinal_BHPN, ScanInputs(*tensors), states_BCHPN, chunk_size)


@_ssd_scan.register_fake
def _(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    *tensors, chunk_size, backend = arguments
    inputs = ScanInputs(*tensors)
    x_BTHP, dtype = inputs.x_BTHP, compute_dtype(inputs.x_BTHP)
    n_batch, n_tokens, n_heads, head_dim = x_BTHP.shape
    state = (n_heads, head_dim, inputs.B_BTGN.shape[-1])
    n_chunks = (n_tokens + chunk_size - 1) // chunk_size
    states_shape = (0,) if backend == "reference" else (n_batch, n_chunks, *state)
    return (
        x_BTHP.new_empty(x_BTHP.shape),
        x_BTHP.new_empty((n_batch, *state), dtype=dtype),
        x_BTHP.new_empty(states_shape, dtype=dtype),
    )


@_ssd_scan_backward.register_fake
def _(dy_BTHP: Tensor, _dfinal_BHPN: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    inputs = ScanInputs(*arguments[: len(ScanInputs._fields)])
    differentiable = (*inputs[:6], inputs.initial_state_BHPN)
    return tuple(dy_BTHP.new_empty((0,)) if t is None else t.new_empty(t.shape) for t in differentiable)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    *tensors, ctx.chunk_size, ctx.backend = inputs
    ctx.mark_non_differentiable(output[2])
    ctx.save_for_backward(*tensors, output[2])


def _differentiate(ctx: Any, dy_BTHP: Tensor, dfinal_BHPN: Tensor, _dstates: Tensor) -> tuple[Tensor | None, ...]:
    *tensors, states_BCHPN = ctx.saved_tensors
    inputs = ScanInputs(*tensors)
    dx, ddt, dA, dB, dC, dD, dinitial = _ssd_scan_backward(
        dy_BTHP, dfinal_BHPN, *inputs, states_BCHPN, ctx.chunk_size, ctx.backend
    )
    dD = None if inputs.D_H is None else dD
    dinitial = None if inputs.initial_state_BHPN is None else dinitial
    return dx, ddt, dA, dB, dC, dD, None, dinitial, None, None


_ssd_scan.register_autograd(_differentiate, setup_context=_save)
