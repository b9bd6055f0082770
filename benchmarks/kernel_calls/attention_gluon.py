"""Calls of attention's Gluon kernel, which is for compute capability 9.0 and types of 16 bits only."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from kernel_calls.call import Call
from tilth.kernels.attention.visible import Mask
from tilth.kernels.backend import gpu_arch

CLAIMS = {"_forward_kernel": {"warp specialised": "a warp loads while two warpgroups compute, and gives them its registers"}}


def gate_calls(dtype: torch.dtype) -> Iterator[Call]:
    """Every head size, with bounds by arithmetic and from tensors, one for float16; nothing for other GPUs and float32."""
    if gpu_arch(torch.device("cpu")) != 90 or dtype == torch.float32:
        return
    for head_dim in (64, 128, 256) if dtype == torch.bfloat16 else (128,):
        for is_packed in (False, True) if dtype == torch.bfloat16 else (True,):
            q, k, v = (torch.randn(1, 256, heads, head_dim, dtype=dtype) for heads in (8, 2, 2))
            segments = torch.zeros(1, 256, dtype=torch.int32) if is_packed else None
            tensors = {"q_BTHD": q, "k_BTGD": k, "v_BTGD": v, "segments_BT": segments}
            yield Call(f"D={head_dim} packed={is_packed}", _forward, tensors, gradients=False)


def _forward(q_BTHD: Tensor, k_BTGD: Tensor, v_BTGD: Tensor, segments_BT: Tensor | None) -> Any:
    from tilth.kernels.attention import gluon_sm90

    return gluon_sm90.forward(q_BTHD, k_BTGD, v_BTGD, Mask(right=0, segments_BT=segments_BT), 0.0, q_BTHD.shape[3] ** -0.5)
