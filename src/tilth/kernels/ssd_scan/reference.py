"""The recurrence of Mamba-2 one token at a time, the truth that the other backends are tested against."""

from __future__ import annotations

import torch
from torch import Tensor

from tilth.kernels.backend import compute_dtype
from tilth.kernels.ssd_scan.inputs import ScanInputs


def ssd_scan_reference(inputs: ScanInputs) -> tuple[Tensor, Tensor]:
    """Return (y_BTHP, final_state_BHPN) of S_t = exp(dt_t A) S_{t-1} + dt_t x_t B_t^T, y_t = S_t C_t + D x_t."""
    x_BTHP, dt_BTH, A_H, B_BTGN, C_BTGN, D_H, segments_BT, initial_state_BHPN = inputs
    dtype = compute_dtype(x_BTHP)
    n_batch, n_tokens, n_heads, head_dim = x_BTHP.shape
    heads_per_group = n_heads // B_BTGN.shape[2]
    x, dt, A = x_BTHP.to(dtype), dt_BTH.to(dtype), A_H.to(dtype)
    B_BTHN = B_BTGN.to(dtype).repeat_interleave(heads_per_group, dim=2)
    C_BTHN = C_BTGN.to(dtype).repeat_interleave(heads_per_group, dim=2)
    if initial_state_BHPN is None:
        state_BHPN = x.new_zeros(n_batch, n_heads, head_dim, B_BTGN.shape[3])
    else:
        state_BHPN = initial_state_BHPN.to(dtype)

    outputs = []
    for t in range(n_tokens):
        if segments_BT is not None and t > 0:
            is_new_B111 = (segments_BT[:, t] != segments_BT[:, t - 1])[:, None, None, None]
            state_BHPN = torch.where(is_new_B111, 0.0, state_BHPN)
        decay_BH11 = torch.exp(dt[:, t] * A)[:, :, None, None]
        dx_BHP1 = (dt[:, t, :, None] * x[:, t])[..., None]
        state_BHPN = decay_BH11 * state_BHPN + dx_BHP1 * B_BTHN[:, t, :, None, :]
        outputs.append((state_BHPN * C_BTHN[:, t, :, None, :]).sum(dim=-1))
    y_BTHP = torch.stack(outputs, dim=1)
    if D_H is not None:
        y_BTHP = y_BTHP + D_H.to(dtype)[:, None] * x
    return y_BTHP.to(x_BTHP.dtype), state_BHPN


def forward(inputs: ScanInputs, chunk_size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return (y, final state, nothing kept); the recurrence has no chunks, so `chunk_size` does not matter."""
    y, final = ssd_scan_reference(inputs)
    return y.contiguous(), final.contiguous(), final.new_empty((0,))


def backward(
    dy_BTHP: Tensor, dfinal_BHPN: Tensor, inputs: ScanInputs, states_BCHPN: Tensor, chunk_size: int
) -> tuple[Tensor, ...]:
    """Return the gradients of x, dt, A, B, C, D and the initial state by differentiating the recurrence itself."""
    names = [name for name, tensor in inputs._asdict().items() if tensor is not None and name != "segments_BT"]

    def run(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        return ssd_scan_reference(inputs._replace(**dict(zip(names, tensors, strict=True))))

    _, differentiate = torch.func.vjp(run, *(getattr(inputs, name) for name in names))
    found = dict(zip(names, differentiate((dy_BTHP, dfinal_BHPN)), strict=True))
    wanted = [name for name in ScanInputs._fields if name != "segments_BT"]
    # An operator's outputs must not share memory, so each absent one is a tensor of its own.
    return tuple(found[name].contiguous() if name in found else dy_BTHP.new_empty((0,)) for name in wanted)
