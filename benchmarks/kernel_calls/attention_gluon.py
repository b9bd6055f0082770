"""Calls of attention's Gluon kernels, which are for compute capability 9.0 and types of 16 bits only."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from kernel_calls.call import Call
from tilth.kernels import attention
from tilth.kernels.backend import gpu_arch

_ROLES = {"warp specialised": "a warp loads while two warpgroups compute, and gives them its registers"}
CLAIMS = dict.fromkeys(("_forward_kernel", "_dq_kernel", "_dkv_kernel"), _ROLES)
_attention = partial(attention, backend="gluon")


def gate_calls(dtype: torch.dtype) -> Iterator[Call]:
    """Every head size, with bounds by arithmetic and from tensors; one of them for float16."""
    sizes = [(head_dim, window) for head_dim in (64, 128, 256) for window in (False, True)]
    for head_dim, is_packed in sizes if dtype == torch.bfloat16 else [(128, True)]:
        # The gradients of heads of 256 are those of the Triton kernels.
        yield from _call(torch.device("cpu"), dtype, (1, 256, 256, 8, 2, head_dim), is_packed, head_dim < 256)


def check_calls(dtype: torch.dtype, device: torch.device) -> Iterator[Call]:
    """Odd lengths, many times around the rings, fewer and more queries than keys, packed documents, windows."""
    yield from _call(device, dtype, (2, 1, 1, 2, 1, 64), False, True)
    yield from _call(device, dtype, (1, 1027, 1027, 4, 2, 64), False, True)
    yield from _call(device, dtype, (2, 1027, 1027, 4, 2, 64), True, True)
    yield from _call(device, dtype, (2, 333, 1999, 6, 2, 128), False, True, causal=False)
    yield from _call(device, dtype, (1, 333, 1999, 6, 2, 128), False, True)
    yield from _call(device, dtype, (1, 300, 100, 2, 2, 128), False, True)
    yield from _call(device, dtype, (3, 777, 777, 4, 1, 128), True, True)
    yield from _call(device, dtype, (1, 2000, 2000, 4, 4, 128), False, True, window=(300, 0))
    yield from _call(device, dtype, (2, 515, 900, 4, 2, 256), False, True)
    yield from _call(device, dtype, (2, 900, 900, 4, 2, 256), True, True, causal=False)


def _call(
    device: torch.device, dtype: torch.dtype, shape: tuple[int, ...], is_packed: bool, gradients: bool, **options: Any
) -> Iterator[Call]:
    """One call, for packed documents of about 100 tokens; none for other GPUs and types."""
    if gpu_arch(device) != 90 or dtype not in (torch.bfloat16, torch.float16):
        return
    n_batch, n_queries, n_keys, n_heads, n_groups, head_dim = shape
    q, k, v = (
        torch.randn(n_batch, tokens, heads, head_dim, dtype=dtype, device=device)
        for tokens, heads in ((n_queries, n_heads), (n_keys, n_groups), (n_keys, n_groups))
    )
    tensors: dict[str, Tensor | None] = {"q_BTHD": q, "k_BTGD": k, "v_BTGD": v}
    if is_packed:
        tensors["segments_BT"] = (torch.rand(n_batch, n_keys, device=device) < 0.01).cumsum(1).int()
    name = " ".join([str(shape), *(["packed"] if is_packed else []), *map(str, options.items())])
    yield Call(name, _attention, tensors, options, gradients=gradients)
