"""One step of the recurrence on the CPU: the states are what there is to read, so each group is finished while it is cached."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import silu

from tilth.kernels.backend import compute_dtype
from tilth.kernels.ssd_step.inputs import StepInputs

# Numbers of the states that a block of groups holds: half a MiB of float32, of which a core's second cache has room for two.
_BLOCK = 1 << 17


def forward(state_BHPN: Tensor, inputs: StepInputs, dt_softplus: bool, dt_min: float, dt_max: float) -> Tensor:
    """Return y_BHP; the states are updated in place."""
    x_BHP, indices = inputs.x_BHP, inputs.state_indices_B
    if indices is None:
        return _step(state_BHPN, inputs, dt_softplus, dt_min, dt_max)
    rows = (indices >= 0).nonzero().flatten()
    numbers = indices[rows].long()
    chosen = {name: getattr(inputs, name) for name in ("x_BHP", "dt_BH", "B_BGN", "C_BGN", "z_BHP")}
    chosen = {name: None if tensor is None else tensor[rows] for name, tensor in chosen.items()}
    states = state_BHPN[numbers]
    y_BHP = torch.zeros(x_BHP.shape, dtype=x_BHP.dtype)
    y_BHP[rows] = _step(states, inputs._replace(**chosen), dt_softplus, dt_min, dt_max)
    state_BHPN[numbers] = states
    return y_BHP


def _step(state_BHPN: Tensor, inputs: StepInputs, dt_softplus: bool, dt_min: float, dt_max: float) -> Tensor:
    dtype = compute_dtype(inputs.x_BHP, state_BHPN)
    n_rows, n_heads, head_dim = inputs.x_BHP.shape
    n_groups, d_state = inputs.B_BGN.shape[1:]
    x, dt = inputs.x_BHP.to(dtype), inputs.dt_BH.to(dtype)
    if inputs.dt_bias_H is not None:
        dt = dt + inputs.dt_bias_H.to(dtype)
    dt = _softplus(dt) if dt_softplus else dt
    if dt_min > 0 or dt_max < math.inf or not dt_softplus:  # a softplus lies above 0
        dt = dt.clamp(dt_min, dt_max)
    # rows and groups are one dimension of small matrices, with the channels of all heads of a group (R) as rows
    n_shared = n_heads // n_groups
    n_channels = n_shared * head_dim
    decay_MS11 = torch.exp(dt * inputs.A_H.to(dtype)).view(n_rows * n_groups, n_shared, 1, 1)
    stepped_MR1 = (x * dt.unsqueeze(-1)).view(n_rows * n_groups, n_channels, 1)
    B_M1N, C_M1N = (t.to(dtype).reshape(n_rows * n_groups, 1, d_state) for t in (inputs.B_BGN, inputs.C_BGN))
    y_M1R = torch.empty(n_rows * n_groups, 1, n_channels, dtype=dtype)
    size = max(1, _BLOCK // max(1, n_channels * d_state))
    state_MSPN = state_BHPN.view(n_rows * n_groups, n_shared, head_dim, d_state)
    by_block = (t.split(size) for t in (state_MSPN, decay_MS11, stepped_MR1, B_M1N, C_M1N, y_M1R))
    for state_mSPN, decay, stepped, B, C, y in zip(*by_block, strict=True):
        state_mRN = state_mSPN.to(dtype).mul_(decay).view(-1, n_channels, d_state)
        state_mRN.addcmul_(stepped, B)
        torch.bmm(C, state_mRN.mT, out=y)  # three times as fast as state @ C
        if state_mSPN.dtype != dtype:
            state_mSPN.copy_(state_mRN.view(state_mSPN.shape))
    y_BHP = y_M1R.view(n_rows, n_heads, head_dim)
    if inputs.D_H is not None:
        y_BHP.addcmul_(x, (inputs.D_H if inputs.D_H.dim() == 2 else inputs.D_H[:, None]).to(dtype))
    if inputs.z_BHP is not None:
        y_BHP.mul_(silu(inputs.z_BHP.to(dtype)))
    return y_BHP.to(inputs.x_BHP.dtype)


def _softplus(x: Tensor) -> Tensor:
    """log(1 + e^x), whose bits are a value's own: torch's softplus has another form for the last few of a tensor."""
    return x.clamp(min=0).add_(x.abs().neg_().exp_().log1p_())
