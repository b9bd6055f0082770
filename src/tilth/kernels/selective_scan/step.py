"""One token of decoding as a scan of length 1, for the backends without a kernel of its own."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from tilth.kernels.selective_scan.inputs import SelectiveInputs, StepInputs


def step_by(
    forward: Callable[[SelectiveInputs, bool, bool], tuple[Tensor, Tensor, Tensor]], inputs: StepInputs, dt_softplus: bool
) -> Tensor:
    """Return y_BC by `forward` and replace the states; a row whose index is -1 gives zeros."""
    u_BC, state_SCN, dt_BC, A_CN, B_BGN, C_BGN, D_C, z_BC, dt_bias_C, indices_B = inputs
    if indices_B is None:
        rows = torch.arange(u_BC.shape[0], device=u_BC.device)
        slots = rows
    else:
        rows = (indices_B >= 0).nonzero().squeeze(-1)
        slots = indices_B[rows].long()
    u, dt, B, C = (tensor[rows].unsqueeze(1) for tensor in (u_BC, dt_BC, B_BGN, C_BGN))
    z = None if z_BC is None else z_BC[rows].unsqueeze(1)
    y_BTC, new_SCN, _ = forward(SelectiveInputs(u, dt, A_CN, B, C, D_C, z, dt_bias_C, None, state_SCN[slots]), dt_softplus, False)
    state_SCN[slots] = new_SCN.to(state_SCN.dtype)
    y_BC = torch.zeros(u_BC.shape, dtype=u_BC.dtype, device=u_BC.device)
    y_BC[rows] = y_BTC.squeeze(1)
    return y_BC
