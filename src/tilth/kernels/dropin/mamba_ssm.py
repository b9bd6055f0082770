"""The functions of mamba_ssm (Dao and Gu), on `ssd_scan`, `selective_scan`, `causal_conv1d` and `rms_norm`."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from tilth.kernels.causal_conv1d import causal_conv1d
from tilth.kernels.rms_norm import rms_norm
from tilth.kernels.selective_scan import selective_scan, selective_step
from tilth.kernels.ssd_scan import ssd_scan
from tilth.kernels.ssd_step import ssd_step


def mamba_chunk_scan_combined(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    chunk_size: int,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    initial_states: Tensor | None = None,
    seq_idx: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    dt_softplus: bool = False,
    dt_limit: tuple[float, float] = (0.0, math.inf),
    return_final_states: bool = False,
    return_varlen_states: bool = False,
) -> Any:
    """Return y (B, T, H, P), and the final states (B, H, P, N) or, of packed documents, (documents, H, P, N) if asked for.

    `chunk_size` changes the speed, not the meaning. Raises as `ssd_scan` does, and ValueError for varlen states without
    `cu_seqlens`.
    """
    if return_varlen_states and cu_seqlens is None:
        raise ValueError("return_varlen_states needs cu_seqlens, which says where the documents end")
    y, final = ssd_scan(
        x, dt, A, B, C, D_H=D, z_BTHP=z, dt_bias_H=dt_bias, initial_state_BHPN=initial_states, segments_BT=seq_idx,
        cu_seqlens=cu_seqlens, dt_softplus=dt_softplus, dt_limit=dt_limit, chunk_size=chunk_size,
    )  # fmt: skip
    return (y, final) if return_final_states or return_varlen_states else y


def mamba_split_conv1d_scan_combined(
    zxbcdt: Tensor,
    conv1d_weight: Tensor,
    conv1d_bias: Tensor | None,
    dt_bias: Tensor,
    A: Tensor,
    D: Tensor,
    chunk_size: int,
    initial_states: Tensor | None = None,
    seq_idx: Tensor | None = None,
    dt_limit: tuple[float, float] = (0.0, math.inf),
    return_final_states: bool = False,
    activation: str | None = "silu",
    rmsnorm_weight: Tensor | None = None,
    rmsnorm_eps: float = 1e-6,
    outproj_weight: Tensor | None = None,
    outproj_bias: Tensor | None = None,
    headdim: int | None = None,
    ngroups: int = 1,
    norm_before_gate: bool = True,
) -> Any:
    """Return the whole mixer after its input projection: (B, T, channels), and the final states if asked for.

    zxbcdt is (B, T, 2 * d + 2 * groups * N + H) in that order: z, x, B, C, dt; headdim is P, needed where D is (H,).
    Raises as the operators do.
    """
    (n_heads,) = dt_bias.shape
    head_dim = headdim if headdim is not None else D.shape[-1]
    width = n_heads * head_dim
    d_state = (zxbcdt.shape[-1] - 2 * width - n_heads) // (2 * ngroups)
    z, xBC, dt = zxbcdt.split([width, width + 2 * ngroups * d_state, n_heads], dim=-1)
    xBC = causal_conv1d(
        xBC, conv1d_weight, conv1d_bias, activation="silu" if activation in ("silu", "swish") else None, segments_BT=seq_idx
    )
    x, B, C = xBC.split([width, ngroups * d_state, ngroups * d_state], dim=-1)
    y, final = ssd_scan(
        x.unflatten(-1, (n_heads, head_dim)),
        dt,
        A,
        B.unflatten(-1, (ngroups, d_state)),
        C.unflatten(-1, (ngroups, d_state)),
        D_H=D,
        z_BTHP=z.unflatten(-1, (n_heads, head_dim)) if rmsnorm_weight is None else None,
        dt_bias_H=dt_bias,
        dt_softplus=True,
        dt_limit=dt_limit,
        initial_state_BHPN=initial_states,
        segments_BT=seq_idx,
        chunk_size=chunk_size,
    )
    out = y.flatten(-2)
    if rmsnorm_weight is not None:
        out = rmsnorm_fn(
            out, rmsnorm_weight, None, z=z, eps=rmsnorm_eps, group_size=width // ngroups, norm_before_gate=norm_before_gate
        )
    if outproj_weight is not None:
        out = linear(out, outproj_weight, outproj_bias)
    return (out, final) if return_final_states else out


def selective_state_update(
    state: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
    state_batch_indices: Tensor | None = None,
) -> Tensor:
    """Return y of one token and replace `state` in place: Mamba-1 where it is (B, C, N), Mamba-2 where it is (B, H, P, N).

    For Mamba-2, dt and A may be repeated over P and N as views (stride 0), as mamba_ssm's modules give them.
    Raises as `selective_step` and `ssd_step` do, and ValueError where Mamba-2's dt or A differ inside a head.
    """
    if state.dim() == 3:
        return selective_step(
            x, state, dt, A, B.unsqueeze(1) if B.dim() == 2 else B, C.unsqueeze(1) if C.dim() == 2 else C,
            D_C=D, z_BC=z, dt_bias_C=dt_bias, dt_softplus=dt_softplus, state_indices_B=state_batch_indices,
        )  # fmt: skip
    return ssd_step(
        state,
        x,
        _per_head("dt", dt, 2),
        _per_head("A", A, 1),
        B,
        C,
        D_H=None if D is None else _per_head("D", D, 1),
        z_BHP=z,
        dt_bias_H=None if dt_bias is None else _per_head("dt_bias", dt_bias, 1),
        dt_softplus=dt_softplus,
        state_indices_B=state_batch_indices,
    )


def _per_head(name: str, tensor: Tensor, n_dimensions: int) -> Tensor:
    """Return what a head shares; mamba_ssm repeats it over the head's channels and states."""
    while tensor.dim() > n_dimensions:
        if tensor.shape[-1] > 1 and tensor.stride(-1) != 0:
            raise ValueError(f"{name} must be the same in all of a head: expected a view that repeats it, of stride 0")
        tensor = tensor[..., 0]
    return tensor


def selective_scan_fn(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
) -> Any:
    """Return y (B, C, T) of Mamba-1's scan over u and delta (B, C, T), A (C, N), B and C (B, N, T) or (B, G, N, T).

    B and C that do not change with time (C, N) are not offered. Raises as `selective_scan` does.
    """
    by_group = [tensor.unsqueeze(1) if tensor.dim() == 3 else tensor for tensor in (B, C)]
    B_BTGN, C_BTGN = (tensor.permute(0, 3, 1, 2) for tensor in by_group)
    y, final = selective_scan(
        u.transpose(1, 2), delta.transpose(1, 2), A, B_BTGN, C_BTGN, D_C=D,
        z_BTC=None if z is None else z.transpose(1, 2), dt_bias_C=delta_bias, dt_softplus=delta_softplus,
    )  # fmt: skip
    return (y.transpose(1, 2), final) if return_last_state else y.transpose(1, 2)


def rmsnorm_fn(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    z: Tensor | None = None,
    eps: float = 1e-6,
    group_size: int | None = None,
    norm_before_gate: bool = True,
) -> Tensor:
    """Return the gated norm (..., D): norm(x) * silu(z), or norm(x * silu(z)). Raises as `rms_norm` does."""
    return rms_norm(x, weight, eps, bias_D=bias, gate_D=z, norm_before_gate=norm_before_gate or z is None, group_size=group_size)


def rms_norm_fn(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    eps: float = 1e-6,
    prenorm: bool = False,
    residual_in_fp32: bool = False,
) -> Any:
    """Return norm(x + residual) (..., D), and with `prenorm` also the sum, the new residual stream.

    Raises as `rms_norm` does.
    """
    if residual is None:
        y = rms_norm(x, weight, eps, bias_D=bias)
        return (y, x.to(torch.float32) if residual_in_fp32 else x) if prenorm else y
    y, stream = rms_norm(x, weight, eps, bias_D=bias, residual_D=residual.float() if residual_in_fp32 else residual)
    return (y, stream) if prenorm else y
