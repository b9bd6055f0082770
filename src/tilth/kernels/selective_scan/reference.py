"""The recurrence of Mamba one token at a time, the truth that the other backends are tested against."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import softplus

from tilth.kernels.backend import compute_dtype
from tilth.kernels.documents import first_tokens
from tilth.kernels.selective_scan.inputs import SelectiveInputs, StepInputs
from tilth.kernels.selective_scan.step import step_by

_DIFFERENTIABLE = tuple(name for name in SelectiveInputs._fields if name != "segments_BT")


def selective_scan_reference(inputs: SelectiveInputs, dt_softplus: bool, reverse: bool) -> tuple[Tensor, Tensor]:
    """Return (y_BTC, final_state_BCN) of h_t = exp(dt_t A) h_{t-1} + dt_t u_t B_t, y_t = (h_t C_t + D u_t) silu(z_t)."""
    u_BTC, dt_BTC, A_CN, B_BTGN, C_BTGN, D_C, z_BTC, dt_bias_C, segments_BT, initial_state_BCN = inputs
    dtype = compute_dtype(u_BTC)
    n_batch, n_tokens, n_channels = u_BTC.shape
    per_group = n_channels // B_BTGN.shape[2]
    u, dt, A = u_BTC.to(dtype), dt_BTC.to(dtype), A_CN.to(dtype)
    if dt_bias_C is not None:
        dt = dt + dt_bias_C.to(dtype)
    if dt_softplus:
        dt = softplus(dt)
    B_BTCN = B_BTGN.to(dtype).repeat_interleave(per_group, dim=2)
    C_BTCN = C_BTGN.to(dtype).repeat_interleave(per_group, dim=2)
    if initial_state_BCN is None:
        state_BCN = u.new_zeros(n_batch, n_channels, A.shape[1])
    else:
        state_BCN = initial_state_BCN.to(dtype)
    is_first_BT = None if segments_BT is None else first_tokens(segments_BT, reverse)

    outputs: list[Tensor] = []
    for t in reversed(range(n_tokens)) if reverse else range(n_tokens):
        if is_first_BT is not None:
            state_BCN = torch.where(is_first_BT[:, t, None, None], 0.0, state_BCN)
        decay_BCN = torch.exp(dt[:, t, :, None] * A)
        state_BCN = decay_BCN * state_BCN + (dt[:, t] * u[:, t]).unsqueeze(-1) * B_BTCN[:, t]
        outputs.append((state_BCN * C_BTCN[:, t]).sum(dim=-1))
    y_BTC = torch.stack(outputs[::-1] if reverse else outputs, dim=1)
    if D_C is not None:
        y_BTC = y_BTC + D_C.to(dtype) * u
    if z_BTC is not None:
        z = z_BTC.to(dtype)
        y_BTC = y_BTC * (z * torch.sigmoid(z))
    return y_BTC.to(u_BTC.dtype), state_BCN


def forward(inputs: SelectiveInputs, dt_softplus: bool, reverse: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return (y, final state, nothing kept)."""
    y, final = selective_scan_reference(inputs, dt_softplus, reverse)
    return y.contiguous(), final.contiguous(), final.new_empty((0,))


def backward(
    dy_BTC: Tensor, dfinal_BCN: Tensor, inputs: SelectiveInputs, states_BcCN: Tensor, dt_softplus: bool, reverse: bool
) -> tuple[Tensor, ...]:
    """Return the gradients of all inputs but the documents, by differentiating the recurrence itself; empty where not given."""
    names = [name for name in _DIFFERENTIABLE if getattr(inputs, name) is not None]

    def run(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        return selective_scan_reference(inputs._replace(**dict(zip(names, tensors, strict=True))), dt_softplus, reverse)

    _, differentiate = torch.func.vjp(run, *(getattr(inputs, name) for name in names))
    found = dict(zip(names, differentiate((dy_BTC, dfinal_BCN)), strict=True))
    # The outputs of an operator must not share memory with each other or with an input.
    return tuple(
        found[name].clone(memory_format=torch.contiguous_format) if name in found else dy_BTC.new_empty((0,))
        for name in _DIFFERENTIABLE
    )


def step(inputs: StepInputs, dt_softplus: bool) -> Tensor:
    """Return y_BC of one more token and replace the states."""
    return step_by(forward, inputs, dt_softplus)
