"""Calls of ssd_scan, the recurrence of Mamba-2.

Work by the sizes, in chunks of Q = 64 tokens, with every product counted once as 2 M N K and only the half of C B^T and of
its product with x that is not masked: per token and head
    forward   Q P + 4 P N, and Q N a group           (read and write the state; the chunk itself)
    backward  2 Q P + 10 P N, and 3 Q N a group      (dC, dB, the state's gradient, and x through both states)
Bytes that must move: inputs and outputs once, in their types; backward also those of the forward that it reads again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from kernel_calls.call import Call
from tilth.kernels import ssd_scan

_CHUNK = 64


def gate_calls(dtype: torch.dtype) -> Iterator[Call]:
    """Every size of head and state, in the fused and the parallel form, and calls of everything at once.

    The forms have the same heads and differ in rows, so that what they share is compiled once.
    """
    parallel, fused = 2, 17
    for batch, head_dim, d_state in ((parallel, 64, 128), (fused, 64, 128), (parallel, 64, 256), (parallel, 128, 128)):
        tensors = _tensors((batch, 130, 8, 1, head_dim, d_state), dtype)
        yield Call(f"P={head_dim} N={d_state} B={batch}", ssd_scan, tensors)
    tensors = _tensors((fused, 130, 8, 1, 128, 128), dtype)
    yield Call("P=128, without gradients", ssd_scan, tensors, gradients=False)
    every = {"reverse": True, "dt_softplus": True}
    for batch in (parallel, fused):
        tensors = _tensors((batch, 130, 8, 1, 64, 128), dtype, everything=True)
        if batch == parallel:  # a gate beside documents does not fit into the fused kernel
            tensors["segments_BT"] = torch.zeros(batch, 130, dtype=torch.int32)
        yield Call(f"all B={batch}", ssd_scan, tensors, every)
    tensors = _tensors((fused, 130, 8, 1, 64, 128), dtype) | {"segments_BT": torch.zeros(fused, 130, dtype=torch.int32)}
    yield Call("documents, fused", ssd_scan, tensors, gradients=False)
    yield Call("bounds", ssd_scan, _with_bounds(_tensors((1, 130, 8, 1, 64, 64), dtype), (0, 0, 33, 130)), gradients=False)


def check_calls(dtype: torch.dtype, device: str) -> Iterator[Call]:
    """Both forms, odd lengths and sizes, groups, packed documents, large steps."""
    sizes = [
        (2, 257, 8, 2, 64, 128),
        (3, 1, 4, 4, 64, 64),
        (40, 129, 4, 1, 64, 128),
        (1, 1000, 4, 1, 50, 40),
        (2, 130, 4, 1, 128, 256),
    ]
    for size in sizes:
        yield _on(Call(f"{size}", ssd_scan, _tensors(size, dtype)), device)
    size = (2, 300, 4, 2, 64, 128)
    segments = (torch.rand(2, 300) < 1 / 20).cumsum(dim=1).to(torch.int32)
    for reverse in (False, True):
        tensors = _tensors(size, dtype, everything=True) | {"segments_BT": segments}
        yield _on(Call(f"all reverse={reverse}", ssd_scan, tensors, {"dt_softplus": True, "reverse": reverse}), device)
    bounds = (0, 0, 1, 65, 65, 200, 300)
    for heads in (4, 32):
        yield _on(Call(f"bounds H={heads}", ssd_scan, _with_bounds(_tensors((1, 300, heads, 1, 64, 128), dtype), bounds)), device)
    large = _tensors((1, 200, 4, 1, 64, 64), dtype)
    large["dt_BTH"] = large["dt_BTH"] * 1e3
    yield _on(Call("large steps", ssd_scan, large), device)


def bench_calls(device: str) -> Iterator[Call]:
    """The layers of Mamba-2 with 130M, 780M and 2.7B parameters, on 16384 tokens."""
    for batch, n_tokens, heads in ((8, 2048, 24), (8, 2048, 48), (8, 2048, 80), (1, 16384, 24)):
        size = (batch, n_tokens, heads, 1, 64, 128)
        tensors = _tensors(size, torch.bfloat16)
        yield _on(Call(f"B={batch} T={n_tokens} H={heads}", ssd_scan, tensors, **_work(*size), peers=_peers()), device)


def _work(batch: int, n_tokens: int, heads: int, groups: int, head_dim: int, d_state: int) -> dict[str, float]:
    tokens = batch * n_tokens
    x, dt, bc = 2 * heads * head_dim, 4 * heads, 2 * 2 * groups * d_state
    return {
        "forward_flops": tokens * (heads * (_CHUNK * head_dim + 4 * head_dim * d_state) + groups * _CHUNK * d_state),
        "backward_flops": tokens * (heads * (2 * _CHUNK * head_dim + 10 * head_dim * d_state) + 3 * groups * _CHUNK * d_state),
        "forward_bytes": tokens * (2 * x + dt + bc),
        "backward_bytes": tokens * (3 * x + 2 * dt + 2 * bc),
    }


def _peers() -> dict[str, Callable[..., Any]]:
    return {"mamba-ssm Triton": _mamba_ssm}


def _mamba_ssm(x_BTHP: Tensor, dt_BTH: Tensor, A_H: Tensor, B_BTGN: Tensor, C_BTGN: Tensor, D_H: Tensor) -> tuple[Tensor, Tensor]:
    from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined

    found: tuple[Tensor, Tensor] = mamba_chunk_scan_combined(
        x_BTHP, dt_BTH, A_H, B_BTGN, C_BTGN, chunk_size=256, D=D_H, return_final_states=True
    )
    return found


def _tensors(size: tuple[int, int, int, int, int, int], dtype: torch.dtype, everything: bool = False) -> dict[str, Tensor | None]:
    batch, n_tokens, heads, groups, head_dim, d_state = size
    tensors: dict[str, Tensor | None] = {
        "x_BTHP": torch.randn(batch, n_tokens, heads, head_dim, dtype=dtype),
        "dt_BTH": torch.nn.functional.softplus(torch.randn(batch, n_tokens, heads) - 2),
        "A_H": -torch.exp(torch.randn(heads)),
        "B_BTGN": torch.randn(batch, n_tokens, groups, d_state, dtype=dtype),
        "C_BTGN": torch.randn(batch, n_tokens, groups, d_state, dtype=dtype),
        "D_H": torch.randn(heads, head_dim) if everything else torch.randn(heads),
    }
    if everything:
        tensors["z_BTHP"] = torch.randn(batch, n_tokens, heads, head_dim, dtype=dtype)
        tensors["dt_bias_H"] = torch.randn(heads)
        tensors["initial_state_BHPN"] = torch.randn(batch, heads, head_dim, d_state)
    return tensors


def _with_bounds(tensors: dict[str, Tensor | None], bounds: tuple[int, ...]) -> dict[str, Tensor | None]:
    return tensors | {"cu_seqlens": torch.tensor(bounds, dtype=torch.int32)}


def _on(call: Call, device: str) -> Call:
    tensors = {name: None if tensor is None else tensor.to(device) for name, tensor in call.tensors.items()}
    return Call(**{**vars(call), "tensors": tensors})
