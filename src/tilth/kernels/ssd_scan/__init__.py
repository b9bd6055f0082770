"""`ssd_scan`: the state-space recurrence of Mamba-2, in chunks, with packed documents and initial states."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tilth.kernels.backend import (
    check_device,
    check_float,
    check_segments,
    check_shape,
    choose_backend,
    implementation,
)

_Gradients = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


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
    _check(x_BTHP, dt_BTH, A_H, B_BTGN, C_BTGN, D_H, segments_BT, initial_state_BHPN, chunk_size)
    backend = choose_backend(x_BTHP)
    y_BTHP, final_state_BHPN, _ = _ssd_scan(
        x_BTHP, dt_BTH, A_H, B_BTGN, C_BTGN, D_H, segments_BT, initial_state_BHPN, chunk_size, backend
    )
    return y_BTHP, final_state_BHPN


def _check(
    x_BTHP: Tensor,
    dt_BTH: Tensor,
    A_H: Tensor,
    B_BTGN: Tensor,
    C_BTGN: Tensor,
    D_H: Tensor | None,
    segments_BT: Tensor | None,
    initial_state_BHPN: Tensor | None,
    chunk_size: int,
) -> None:
    if x_BTHP.dim() != 4:
        raise ValueError(f"x_BTHP has shape {tuple(x_BTHP.shape)}; expected 4 dimensions (B, T, H, P)")
    if B_BTGN.dim() != 4:
        raise ValueError(f"B_BTGN has shape {tuple(B_BTGN.shape)}; expected 4 dimensions (B, T, G, N)")
    n_batch, n_tokens, n_heads, head_dim = x_BTHP.shape
    n_groups, d_state = B_BTGN.shape[2:]
    if n_tokens == 0 or head_dim == 0 or d_state == 0:
        raise ValueError(f"x_BTHP has shape {tuple(x_BTHP.shape)}; T, P and N must be at least 1")
    if n_groups == 0 or n_heads % n_groups:
        raise ValueError(f"{n_heads} heads cannot share {n_groups} groups: H must be a multiple of G")
    if chunk_size < 1:
        raise ValueError(f"chunk_size is {chunk_size}; expected at least 1")
    check_shape("dt_BTH", dt_BTH, (n_batch, n_tokens, n_heads), "B, T, H")
    check_shape("A_H", A_H, (n_heads,), "H")
    check_shape("B_BTGN", B_BTGN, (n_batch, n_tokens, n_groups, d_state), "B, T, G, N")
    check_shape("C_BTGN", C_BTGN, (n_batch, n_tokens, n_groups, d_state), "B, T, G, N")
    named = {"x_BTHP": x_BTHP, "dt_BTH": dt_BTH, "A_H": A_H, "B_BTGN": B_BTGN, "C_BTGN": C_BTGN}
    if D_H is not None:
        check_shape("D_H", D_H, (n_heads,), "H")
        named["D_H"] = D_H
    if initial_state_BHPN is not None:
        check_shape("initial_state_BHPN", initial_state_BHPN, (n_batch, n_heads, head_dim, d_state), "B, H, P, N")
        named["initial_state_BHPN"] = initial_state_BHPN
    for name, tensor in named.items():
        check_float(name, tensor)
    if segments_BT is not None:
        check_segments(segments_BT, (n_batch, n_tokens))
    check_device(x_BTHP, segments_BT=segments_BT, **named)


@torch.library.custom_op("tilth::ssd_scan", mutates_args=())
def _ssd_scan(
    x_BTHP: Tensor,
    dt_BTH: Tensor,
    A_H: Tensor,
    B_BTGN: Tensor,
    C_BTGN: Tensor,
    D_H: Tensor | None,
    segments_BT: Tensor | None,
    initial_state_BHPN: Tensor | None,
    chunk_size: int,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """Third output: the state that enters each chunk (B, n_chunks, H, P, N), kept for the backward; the reference has none."""
    module = implementation("ssd_scan", backend)
    return module.forward(x_BTHP, dt_BTH, A_H, B_BTGN, C_BTGN, D_H, segments_BT, initial_state_BHPN, chunk_size)


@torch.library.custom_op("tilth::ssd_scan_backward", mutates_args=())
def _ssd_scan_backward(
    dy_BTHP: Tensor,
    dfinal_BHPN: Tensor,
    x_BTHP: Tensor,
    dt_BTH: Tensor,
    A_H: Tensor,
    B_BTGN: Tensor,
    C_BTGN: Tensor,
    D_H: Tensor | None,
    segments_BT: Tensor | None,
    initial_state_BHPN: Tensor | None,
    states_BCHPN: Tensor,
    chunk_size: int,
    backend: str,
) -> _Gradients:
    module = implementation("ssd_scan", backend)
    return module.backward(
        dy_BTHP,
        dfinal_BHPN,
        x_BTHP,
        dt_BTH,
        A_H,
        B_BTGN,
        C_BTGN,
        D_H,
        segments_BT,
        initial_state_BHPN,
        states_BCHPN,
        chunk_size,
    )


@_ssd_scan.register_fake
def _(
    x_BTHP: Tensor,
    dt_BTH: Tensor,
    A_H: Tensor,
    B_BTGN: Tensor,
    C_BTGN: Tensor,
    D_H: Tensor | None,
    segments_BT: Tensor | None,
    initial_state_BHPN: Tensor | None,
    chunk_size: int,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    n_batch, n_tokens, n_heads, head_dim = x_BTHP.shape
    dtype = torch.float64 if x_BTHP.dtype == torch.float64 else torch.float32
    state = (n_heads, head_dim, B_BTGN.shape[-1])
    n_chunks = (n_tokens + chunk_size - 1) // chunk_size
    states_shape = (0,) if backend == "reference" else (n_batch, n_chunks, *state)
    return (
        x_BTHP.new_empty(x_BTHP.shape),
        x_BTHP.new_empty((n_batch, *state), dtype=dtype),
        x_BTHP.new_empty(states_shape, dtype=dtype),
    )


@_ssd_scan_backward.register_fake
def _(
    dy_BTHP: Tensor,
    dfinal_BHPN: Tensor,
    x_BTHP: Tensor,
    dt_BTH: Tensor,
    A_H: Tensor,
    B_BTGN: Tensor,
    C_BTGN: Tensor,
    D_H: Tensor | None,
    segments_BT: Tensor | None,
    initial_state_BHPN: Tensor | None,
    states_BCHPN: Tensor,
    chunk_size: int,
    backend: str,
) -> _Gradients:
    inputs = (x_BTHP, dt_BTH, A_H, B_BTGN, C_BTGN)
    dx, ddt, dA, dB, dC = (tensor.new_empty(tensor.shape) for tensor in inputs)
    dD = x_BTHP.new_empty((0,)) if D_H is None else D_H.new_empty(D_H.shape)
    dinitial = x_BTHP.new_empty((0,)) if initial_state_BHPN is None else initial_state_BHPN.new_empty(initial_state_BHPN.shape)
    return dx, ddt, dA, dB, dC, dD, dinitial


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    *tensors, ctx.chunk_size, ctx.backend = inputs
    ctx.mark_non_differentiable(output[2])
    ctx.save_for_backward(*tensors, output[2])


def _differentiate(ctx: Any, dy_BTHP: Tensor, dfinal_BHPN: Tensor, _dstates: Tensor) -> tuple[Tensor | None, ...]:
    *inputs, states_BCHPN = ctx.saved_tensors
    D_H, initial_state_BHPN = inputs[5], inputs[7]
    dx, ddt, dA, dB, dC, dD, dinitial = _ssd_scan_backward(
        dy_BTHP, dfinal_BHPN, *inputs, states_BCHPN, ctx.chunk_size, ctx.backend
    )
    dD = None if D_H is None else dD
    dinitial = None if initial_state_BHPN is None else dinitial
    return dx, ddt, dA, dB, dC, dD, None, dinitial, None, None


_ssd_scan.register_autograd(_differentiate, setup_context=_save)
