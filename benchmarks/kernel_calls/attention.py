"""Calls of attention."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from kernel_calls.call import Call
from tilth.kernels import attention


def gate_calls(dtype: torch.dtype) -> Iterator[Call]:
    """Every head size, causal or not, packed or not."""
    segments = torch.zeros(1, 128, dtype=torch.int32)
    for head_dim in (64, 128):
        for ids in (None, segments):
            q, k, v = (torch.randn(1, 128, heads, head_dim, dtype=dtype) for heads in (8, 2, 2))
            tensors = {"q_BTHD": q, "k_BTGD": k, "v_BTGD": v, "segments_BT": ids}
            yield Call(f"D={head_dim} packed={ids is not None}", attention, tensors)
