"""The recurrence of Mamba-2 one token at a time, the truth that the other backends are tested against."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import silu

from tilth.kernels.backend import compute_dtype
from tilth.kernels.ssd_scan.inputs import ScanInputs, ScanOptions, kept_states


def ssd_scan_reference(inputs: ScanInputs, options: ScanOptions) -> tuple[Tensor, Tensor]:
    """Return (y_BTHP, final_state_BHPN) of S_t = exp(dt_t A) S_{t-1} + dt_t x_t B_t^T, y_t = (S_t C_t + D x_t) silu(z_t)."""
    dtype = compute_dtype(inputs.x_BTHP)
    n_heads, head_dim = inputs.x_BTHP.shape[2:]
    x_BTHP = inputs.x_BTHP.to(dtype)
    if inputs.initial_state_BHPN is None:
        state_BHPN = x_BTHP.new_zeros(inputs.n_states, n_heads, head_dim, inputs.B_BTGN.shape[3])
    else:
        state_BHPN = inputs.initial_state_BHPN.to(dtype)
    if inputs.cu_seqlens is None:
        y_BTHP, final_BHPN = _recur(inputs, options, state_BHPN)
    else:
        bounds = inputs.cu_seqlens.tolist()
        parts = [
            _recur(_tokens(inputs, slice(*bounds[i : i + 2])), options, state_BHPN[i : i + 1]) for i in range(len(bounds) - 1)
        ]
        y_BTHP = torch.cat([y for y, _ in parts], dim=1)
        final_BHPN = torch.cat([final for _, final in parts])
    if inputs.D_H is not None:
        y_BTHP = y_BTHP + (inputs.D_H if inputs.D_H.dim() == 2 else inputs.D_H[:, None]).to(dtype) * x_BTHP
    if inputs.z_BTHP is not None:
        y_BTHP = y_BTHP * silu(inputs.z_BTHP.to(dtype))
    return y_BTHP.to(inputs.x_BTHP.dtype), final_BHPN


def _tokens(inputs: ScanInputs, tokens: slice) -> ScanInputs:
    cut = {name: getattr(inputs, name)[:, tokens] for name in ("x_BTHP", "dt_BTH", "B_BTGN", "C_BTGN")}
    return inputs._replace(**cut)


def _recur(inputs: ScanInputs, options: ScanOptions, state_BHPN: Tensor) -> tuple[Tensor, Tensor]:
    """Return S_t C_t of every token and the last state, from `state_BHPN`, which is in the dtype of the computation."""
    dtype = state_BHPN.dtype
    n_tokens, n_heads = inputs.x_BTHP.shape[1:3]
    heads_per_group = n_heads // inputs.B_BTGN.shape[2]
    x, A = inputs.x_BTHP.to(dtype), inputs.A_H.to(dtype)
    dt = options.step_sizes(inputs.dt_BTH, inputs.dt_bias_H, dtype)
    B_BTHN, C_BTHN = (t.to(dtype).repeat_interleave(heads_per_group, dim=2) for t in (inputs.B_BTGN, inputs.C_BTGN))
    outputs: list[Tensor] = []
    order = range(n_tokens)
    previous = None
    for t in reversed(order) if options.reverse else order:
        if inputs.segments_BT is not None and previous is not None:
            is_new_B111 = (inputs.segments_BT[:, t] != inputs.segments_BT[:, previous])[:, None, None, None]
            state_BHPN = torch.where(is_new_B111, 0.0, state_BHPN)
        decay_BH11 = torch.exp(dt[:, t] * A)[:, :, None, None]
        dx_BHP1 = (dt[:, t, :, None] * x[:, t])[..., None]
        state_BHPN = decay_BH11 * state_BHPN + dx_BHP1 * B_BTHN[:, t, :, None, :]
        outputs.append((state_BHPN * C_BTHN[:, t, :, None, :]).sum(dim=-1))
        previous = t
    y = torch.stack(outputs[::-1] if options.reverse else outputs, dim=1) if outputs else x
    return y, state_BHPN


def forward(inputs: ScanInputs, options: ScanOptions) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return (y, final state, nothing kept, nothing kept)."""
    y, final = ssd_scan_reference(inputs, options)
    nothing = kept_states(inputs, options, "reference")
    return y.contiguous(), final.clone(), nothing, y.new_empty((0,))


def backward(
    dy_BTHP: Tensor, dfinal_BHPN: Tensor, inputs: ScanInputs, kept: Tensor, ungated: Tensor, options: ScanOptions
) -> tuple[Tensor | None, ...]:
    """Return the gradients of the differentiable inputs by differentiating the recurrence itself."""
    names = ScanInputs._fields[: len(inputs.differentiable)]
    given = [name for name in names if getattr(inputs, name) is not None]

    def run(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        return ssd_scan_reference(inputs._replace(**dict(zip(given, tensors, strict=True))), options)

    _, differentiate = torch.func.vjp(run, *(getattr(inputs, name) for name in given))
    found = dict(zip(given, differentiate((dy_BTHP, dfinal_BHPN)), strict=True))
    return tuple(found[name].contiguous() if name in found else None for name in names)
