"""Calls of attention."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from kernel_calls.call import Call
from tilth.kernels import attention


def gate_calls(dtype: torch.dtype) -> Iterator[Call]:
    """Every head size that has launches, with bounds by arithmetic and from tensors; the softcap."""
    cases = [(128, {})] if dtype == torch.float16 else [(d, {}) for d in (16, 32, 64, 128, 256)]
    if dtype != torch.float16:
        cases += [(64, {"window": 32}), (128, {"window": 32}), (256, {"window": 32}), (128, {"softcap": 30.0})]
    for head_dim, options in cases:
        q, k, v = (torch.randn(1, 128, heads, head_dim, dtype=dtype) for heads in (8, 2, 2))
        name = " ".join([f"D={head_dim}", *options])
        yield Call(name, attention, {"q_BTHD": q, "k_BTGD": k, "v_BTGD": v}, options)
