"""One step of the recurrence as `ssd_scan` defines it, the truth that the other backends are tested against."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import silu, softplus

from tilth.kernels.backend import compute_dtype
from tilth.kernels.ssd_step.inputs import StepInputs


def forward(state_BHPN: Tensor, inputs: StepInputs, dt_softplus: bool, dt_min: float, dt_max: float) -> Tensor:
    """Return y_BHP; S = exp(dt A) S + dt x B^T in place, y = (S C + D x) silu(z)."""
    x_BHP, indices = inputs.x_BHP, inputs.state_indices_B
    dtype = compute_dtype(x_BHP, state_BHPN)
    y_BHP = torch.zeros(x_BHP.shape, dtype=x_BHP.dtype, device=x_BHP.device)
    numbers = torch.arange(len(x_BHP), device=x_BHP.device) if indices is None else indices.long()
    rows = (numbers >= 0).nonzero().flatten()
    per_group = x_BHP.shape[1] // inputs.B_BGN.shape[1]
    x, dt = x_BHP[rows].to(dtype), inputs.dt_BH[rows].to(dtype)
    B_BHN, C_BHN = (t[rows].to(dtype).repeat_interleave(per_group, dim=1) for t in (inputs.B_BGN, inputs.C_BGN))
    if inputs.dt_bias_H is not None:
        dt = dt + inputs.dt_bias_H.to(dtype)
    dt = (softplus(dt) if dt_softplus else dt).clamp(dt_min, dt_max)
    decay_BH11 = torch.exp(dt * inputs.A_H.to(dtype))[..., None, None]
    state = decay_BH11 * state_BHPN[numbers[rows]].to(dtype) + (dt[..., None] * x)[..., None] * B_BHN[:, :, None]
    y = (state * C_BHN[:, :, None]).sum(dim=-1)
    if inputs.D_H is not None:
        y = y + (inputs.D_H if inputs.D_H.dim() == 2 else inputs.D_H[:, None]).to(dtype) * x
    if inputs.z_BHP is not None:
        y = y * silu(inputs.z_BHP[rows].to(dtype))
    state_BHPN[numbers[rows]] = state.to(state_BHPN.dtype)
    y_BHP[rows] = y.to(y_BHP.dtype)
    return y_BHP
