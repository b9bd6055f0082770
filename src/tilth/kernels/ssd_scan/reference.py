"""The recurrence of Mamba-2 one token at a time, the truth that the other backends are tested against."""

from __future__ import annotations

import torch
from torch import Tensor

from tilth.kernels.backend import compute_dtype


def ssd_scan_reference(
    x_BTHP: Tensor,
    dt_BTH: Tensor,
    A_H: Tensor,
    B_BTGN: Tensor,
    C_BTGN: Tensor,
    D_H: Tensor | None,
    segments_BT: Tensor | None,
    initial_state_BHPN: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Return (y_BTHP, final_state_BHPN) of S_t = exp(dt_t A) S_{t-1} + dt_t x_t B_t^T, y_t = S_t C_t + D x_t."""
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


def forward(
    x_BTHP: Tensor,
    dt_BTH: Tensor,
    A_H: Tensor,
    B_BTGN: Tensor,
    C_BTGN: Tensor,
    D_H: Tensor | None,
    segments_BT: Tensor | None,
    initial_state_BHPN: Tensor | None,
    chunk_size: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (y, final state, nothing kept); the recurrence has no chunks, so `chunk_size` does not matter."""
    y, final = ssd_scan_reference(x_BTHP, dt_BTH, A_H, B_BTGN, C_BTGN, D_H, segments_BT, initial_state_BHPN)
    return y.contiguous(), final.contiguous(), final.new_empty((0,))


def backward(
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
) -> tuple[Tensor, ...]:
    """Return the gradients of x, dt, A, B, C, D and the initial state by differentiating the recurrence itself."""
    optional = [tensor for tensor in (D_H, initial_state_BHPN) if tensor is not None]

    def run(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, *rest: Tensor) -> tuple[Tensor, Tensor]:
        left = list(rest)
        D = None if D_H is None else left.pop(0)
        initial = None if initial_state_BHPN is None else left.pop(0)
        return ssd_scan_reference(x, dt, A, B, C, D, segments_BT, initial)

    _, differentiate = torch.func.vjp(run, x_BTHP, dt_BTH, A_H, B_BTGN, C_BTGN, *optional)
    gradients = [gradient.contiguous() for gradient in differentiate((dy_BTHP, dfinal_BHPN))]
    rest = gradients[5:]
    dD = x_BTHP.new_empty((0,)) if D_H is None else rest.pop(0)
    dinitial = x_BTHP.new_empty((0,)) if initial_state_BHPN is None else rest.pop(0)
    return (*gradients[:5], dD, dinitial)
