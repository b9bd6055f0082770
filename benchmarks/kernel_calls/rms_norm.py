"""Calls of rms_norm."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from kernel_calls.call import Call
from tilth.kernels import rms_norm


def gate_calls(dtype: torch.dtype) -> Iterator[Call]:
    """Rows of one block, of several warps and of the largest size."""
    for size in (256, 4096):
        tensors = {"x_D": torch.randn(3, size, dtype=dtype), "weight_D": torch.randn(size, dtype=dtype)}
        yield Call(f"D={size}", rms_norm, tensors)
