"""Calls of selective_scan. Bytes: each input read once and each output written once; states stay inside."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from kernel_calls.call import Call
from tilth.kernels import selective_scan, selective_step


def gate_calls(dtype: torch.dtype) -> Iterator[Call]:
    """Mamba's 16 states, plain and with all that a kernel may leave out; the most states; one step of decoding."""
    yield _call("plain", 1, 128, 128, 16, dtype, full=False)
    yield _call("full", 1, 128, 128, 16, dtype, dt_softplus=True, reverse=True)
    yield _call("N=64", 1, 128, 128, 64, dtype, dt_softplus=True)
    call = _call("step", 2, 1, 128, 16, dtype, dt_softplus=True)
    names = {"u_BTC": "u_BC", "dt_BTC": "dt_BC", "B_BTGN": "B_BGN", "C_BTGN": "C_BGN", "z_BTC": "z_BC"}
    tensors = {names[name]: call.tensors[name][:, 0] for name in names if call.tensors[name] is not None}
    tensors |= {name: call.tensors[name] for name in ("A_CN", "D_C", "dt_bias_C")}
    tensors |= {"state_BCN": torch.zeros(2, 128, 16), "state_indices_B": torch.tensor([1, -1])}
    yield Call("step", selective_step, tensors, {"dt_softplus": True}, gradients=False)


def check_calls(dtype: torch.dtype, device: str) -> Iterator[Call]:
    """Odd and large lengths, few and many channels and states, both directions."""
    shapes = ((1, 1, 64, 16), (2, 63, 40, 16), (2, 257, 100, 8), (1, 1000, 512, 16), (3, 129, 72, 64))
    for n_batch, n_tokens, n_channels, d_state in shapes:
        for reverse in (False, True):
            name = f"{n_batch}x{n_tokens}x{n_channels} N={d_state} reverse={reverse}"
            yield _call(name, n_batch, n_tokens, n_channels, d_state, dtype, device, dt_softplus=True, reverse=reverse)
    yield _call("plain", 2, 513, 256, 16, dtype, device, full=False)


def bench_calls(device: str) -> Iterator[Call]:
    """A layer of Mamba-1 of 1.4 billion parameters, and one of Caduceus over one long row."""
    for n_batch, n_tokens, n_channels in ((4, 2048, 4096), (1, 131072, 512)):
        dtype = torch.bfloat16
        call = _call(f"{n_batch}x{n_tokens}x{n_channels}", n_batch, n_tokens, n_channels, 16, dtype, device, dt_softplus=True)
        tensors = call.tensors | {"segments_BT": None, "initial_state_BCN": None}
        size = n_batch * n_tokens * n_channels * 2
        yield Call(
            call.name, call.function, tensors, call.options, forward_bytes=4 * size, backward_bytes=7 * size,
            peers={"mamba-ssm": _selective_scan_fn},
        )  # fmt: skip


def _call(
    name: str,
    n_batch: int,
    n_tokens: int,
    n_channels: int,
    d_state: int,
    dtype: torch.dtype,
    device: str = "cpu",
    *,
    full: bool = True,
    **options: Any,
) -> Call:
    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=dtype, device=device)

    tensors = {
        "u_BTC": normal(n_batch, n_tokens, n_channels),
        "dt_BTC": torch.nn.functional.softplus(normal(n_batch, n_tokens, n_channels) - 2),
        "A_CN": -torch.exp(normal(n_channels, d_state)),
        "B_BTGN": normal(n_batch, n_tokens, 1, d_state),
        "C_BTGN": normal(n_batch, n_tokens, 1, d_state),
        "D_C": normal(n_channels) if full else None,
        "z_BTC": normal(n_batch, n_tokens, n_channels) if full else None,
        "dt_bias_C": normal(n_channels) if full else None,
        "segments_BT": (torch.rand(n_batch, n_tokens, device=device) < 0.05).cumsum(1).int() if full else None,
        "initial_state_BCN": normal(n_batch, n_channels, d_state) if full else None,
    }
    return Call(name, selective_scan, tensors, options)


def _selective_scan_fn(
    u_BTC: Tensor,
    dt_BTC: Tensor,
    A_CN: Tensor,
    B_BTGN: Tensor,
    C_BTGN: Tensor,
    *,
    D_C: Tensor,
    z_BTC: Tensor,
    dt_bias_C: Tensor,
    **_: Any,
) -> Tensor:
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

    u, dt, z = (t.transpose(1, 2) for t in (u_BTC, dt_BTC, z_BTC))
    B, C = (t.permute(0, 2, 3, 1) for t in (B_BTGN, C_BTGN))
    y_BCT = selective_scan_fn(u, dt, A_CN.float(), B, C, D_C.float(), z, dt_bias_C.float(), delta_softplus=True)
    return y_BCT.transpose(1, 2)
