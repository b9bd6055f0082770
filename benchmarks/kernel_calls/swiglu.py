"""Calls of swiglu."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from kernel_calls.call import Call
from tilth.kernels import swiglu


def gate_calls(dtype: torch.dtype) -> Iterator[Call]:
    """The narrow and the wide launch; one tensor and two launch the same kernels."""
    for size in (160, 1024):
        yield Call(f"F={size}", swiglu, {"gate_up_2F": torch.randn(5, 2 * size, dtype=dtype)})


def check_calls(dtype: torch.dtype, device: str) -> Iterator[Call]:
    """Odd sizes, both forms, and rows that lie apart."""
    for shape in ((1, 2), (257, 2 * 33), (3, 129, 2 * 256), (1000, 2 * 1376), (17, 2 * 14336)):
        yield Call(f"one {shape}", swiglu, {"gate_up_2F": torch.randn(shape, dtype=dtype, device=device)})
    gate, up = torch.randn(2, 65, 1000, dtype=dtype, device=device)
    yield Call("two (65, 1000)", swiglu, {"gate_up_2F": gate, "up_F": up})
    wide = torch.randn(65, 3000, dtype=dtype, device=device)
    yield Call("two, strided", swiglu, {"gate_up_2F": wide[:, :1000], "up_F": wide[:, 1500:2500]})


def bench_calls(device: str) -> Iterator[Call]:
    """16,384 tokens; what must move: gate and up in and y out, then these and dy in and both gradients out."""
    for size in (2048, 8192, 14336):
        n = 16384 * size * 2
        tensors = {"gate_up_2F": torch.randn(16384, 2 * size, dtype=torch.bfloat16, device=device)}
        peers = {"torch.compile": torch.compile(_formula), "eager": _formula, "liger": _liger}
        yield Call(f"F={size}", swiglu, tensors, forward_bytes=3 * n, backward_bytes=5 * n, peers=peers)


def _formula(gate_up_2F: Tensor) -> Tensor:
    gate, up = gate_up_2F.chunk(2, dim=-1)
    return functional.silu(gate) * up


def _liger(gate_up_2F: Tensor) -> Any:
    from liger_kernel.ops.swiglu import LigerSiLUMulFunction

    return LigerSiLUMulFunction.apply(*gate_up_2F.chunk(2, dim=-1))
