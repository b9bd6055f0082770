"""Calls of rms_norm."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from kernel_calls.call import Call
from tilth.kernels import rms_norm

SIZES = (256, 1024, 2048, 4096, 8192, 16384, 32768, 65536)


def gate_calls(dtype: torch.dtype) -> Iterator[Call]:
    """Rows of every width; at one of them what may stand around the norm, in the type that is trained in."""
    for size in SIZES:
        yield _call(f"D={size}", dtype, "cpu", 3, size)
    if dtype != torch.bfloat16:
        return
    yield _call("residual", dtype, "cpu", 3, 4096, residual=torch.float32)
    yield _call("residual, 16 bits", dtype, "cpu", 3, 4096, residual=dtype)
    for size in (4096, 65536):
        yield _call("gate after", dtype, "cpu", 3, size, gate=True, bias=True)
        yield _call("gate before", dtype, "cpu", 3, size, gate=True, norm_before_gate=False)
    yield _call("strands", dtype, "cpu", 3, 256, reverse_complement=True)
    yield _call("groups", dtype, "cpu", 3, 2048, gate=True, norm_before_gate=False, group_size=256)


def check_calls(dtype: torch.dtype, device: str) -> Iterator[Call]:
    """Odd sizes, every width, and what may stand around the norm, alone and together."""
    for n_tokens, size in ((1, 1), (257, 17), (1000, 255), (129, 1000), (65, 5120), (17, 32768), (5, 50_001)):
        yield _call(f"{n_tokens} x {size}", dtype, device, n_tokens, size)
    for residual in (dtype, torch.float32):
        yield _call(f"residual {residual}", dtype, device, 333, 768, residual=residual, bias=True)
    for before in (True, False):
        yield _call(f"gate {before}", dtype, device, 333, 1536, gate=True, bias=True, norm_before_gate=before)
        yield _call(f"wide gate {before}", dtype, device, 9, 40_000, gate=True, norm_before_gate=before)
    yield _call("groups", dtype, device, 333, 1536, gate=True, norm_before_gate=False, group_size=192)
    yield _call("strands", dtype, device, 333, 512, residual=torch.float32, reverse_complement=True)
    yield _call("strands, groups", dtype, device, 77, 512, bias=True, reverse_complement=True, group_size=128)


def bench_calls(device: str) -> Iterator[Call]:
    """bf16. What must move: x in and y out; then x and dy in and dx out. A gate adds one and two, a residual two and two."""
    for n_tokens, size in ((16384, 2048), (16384, 4096), (16384, 8192), (4096, 32768), (4096, 65536)):
        n = n_tokens * size * 2
        call = _call("", torch.bfloat16, device, n_tokens, size)
        peers = {"torch.compile": torch.compile(_formula), "F.rms_norm": _torch, "liger": _liger}
        yield Call(f"{n_tokens} x {size}", rms_norm, call.tensors, forward_bytes=2 * n, backward_bytes=3 * n, peers=peers)
    n = 16384 * 4096 * 2
    plain, gated, grouped = (torch.compile(_formula) for _ in range(3))
    call = _call("", torch.bfloat16, device, 16384, 4096, residual=torch.bfloat16)
    yield Call("residual", rms_norm, call.tensors, forward_bytes=4 * n, backward_bytes=4 * n, peers={"torch.compile": plain})
    call = _call("", torch.bfloat16, device, 16384, 4096, gate=True, norm_before_gate=False)
    peers = {"torch.compile": gated}
    yield Call("gated", rms_norm, call.tensors, call.options, forward_bytes=3 * n, backward_bytes=5 * n, peers=peers)
    call = _call("", torch.bfloat16, device, 16384, 4096, gate=True, norm_before_gate=False, group_size=512)
    peers = {"torch.compile": grouped}
    yield Call("gated, 8 groups", rms_norm, call.tensors, call.options, forward_bytes=3 * n, backward_bytes=5 * n, peers=peers)


def _call(
    name: str, dtype: torch.dtype, device: str, n_tokens: int, size: int, *,
    residual: torch.dtype | None = None, gate: bool = False, bias: bool = False, **options: Any,
) -> Call:  # fmt: skip
    n_channels = size * (2 if options.get("reverse_complement") else 1)

    def normal(*shape: int, like: torch.dtype = dtype) -> Tensor:
        return torch.randn(shape, dtype=like, device=device)

    tensors: dict[str, Tensor | None] = {"x_D": normal(n_tokens, n_channels), "weight_D": normal(size)}
    if bias:
        tensors["bias_D"] = normal(size)
    if residual is not None:
        tensors["residual_D"] = normal(n_tokens, n_channels, like=residual)
    if gate:
        tensors["gate_D"] = normal(n_tokens, n_channels)
    return Call(name, rms_norm, tensors, options)


def _formula(
    x_D: Tensor, weight_D: Tensor, residual_D: Tensor | None = None, gate_D: Tensor | None = None,
    norm_before_gate: bool = True, group_size: int | None = None,
) -> Any:  # fmt: skip
    h = x_D.float() if residual_D is None else x_D.float() + residual_D.float()
    if gate_D is not None:
        h = h * functional.silu(gate_D.float())
    groups = h.unflatten(-1, (-1, group_size or h.shape[-1]))
    n = groups * torch.rsqrt(groups.square().mean(dim=-1, keepdim=True) + 1e-5)
    y_D = (n.flatten(-2) * weight_D.float()).to(x_D.dtype)
    return y_D if residual_D is None else (y_D, h.to(residual_D.dtype))


def _torch(x_D: Tensor, weight_D: Tensor) -> Tensor:
    return functional.rms_norm(x_D, weight_D.shape, weight_D, 1e-5)


def _liger(x_D: Tensor, weight_D: Tensor) -> Any:
    from liger_kernel.ops.rms_norm import LigerRMSNormFunction

    return LigerRMSNormFunction.apply(x_D, weight_D, 1e-5, 0.0, "llama", False)
