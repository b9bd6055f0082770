"""Calls of ssd_step, one token of Mamba-2 for every row.

Work by the sizes: per row and head 6 P N operations (decay, add and read every number of the state). What counts is bytes:
the state is read and written once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from kernel_calls.call import Call
from tilth.kernels import ssd_step


def gate_calls(dtype: torch.dtype) -> Iterator[Call]:
    """States of one and of several slices, and everything at once."""
    for head_dim, d_state in ((64, 128), (128, 256)):
        yield Call(f"P={head_dim} N={d_state}", _step, _tensors((2, 4, 1, head_dim, d_state), dtype), gradients=False)
    everything = _tensors((3, 4, 1, 64, 128), dtype, pool=5)
    yield Call("all", _step, everything, {"dt_softplus": True}, gradients=False)


def check_calls(dtype: torch.dtype, device: str) -> Iterator[Call]:
    """Odd sizes, groups, and rows that choose their states from a pool."""
    for size in ((1, 4, 1, 64, 128), (3, 6, 2, 50, 40), (64, 24, 1, 64, 128), (2, 4, 4, 128, 256)):
        tensors = _tensors(size, dtype)
        yield Call(f"{size}", _step, {name: tensor.to(device) for name, tensor in tensors.items()}, gradients=False)
    tensors = {name: tensor.to(device) for name, tensor in _tensors((3, 4, 2, 64, 128), dtype, pool=7).items()}
    yield Call("all", _step, tensors, {"dt_softplus": True}, gradients=False)


def bench_calls(device: str) -> Iterator[Call]:
    """A layer of Mamba-2 with 2.7B parameters, for one row and for many."""
    for batch in (1, 16, 256):
        tensors = {name: tensor.to(device) for name, tensor in _tensors((batch, 80, 1, 64, 128), torch.bfloat16).items()}
        numbers = batch * 80 * 64 * 128
        yield Call(
            f"B={batch} H=80", ssd_step, tensors, gradients=False, forward_flops=6 * numbers, forward_bytes=2 * 4 * numbers,
            peers={"mamba-ssm Triton": _mamba_ssm},
        )  # fmt: skip


def _step(state_BHPN: Tensor, **tensors: Any) -> tuple[Tensor, Tensor]:
    """The step on states of its own, which is what a comparison needs: y and the new states."""
    states = state_BHPN.clone()
    return ssd_step(states, **tensors), states


def _mamba_ssm(
    state_BHPN: Tensor, x_BHP: Tensor, dt_BH: Tensor, A_H: Tensor, B_BGN: Tensor, C_BGN: Tensor, D_H: Tensor
) -> Tensor:
    from mamba_ssm.ops.triton.selective_state_update import selective_state_update

    update: Callable[..., Tensor] = selective_state_update
    head_dim, d_state = state_BHPN.shape[2:]
    dt = dt_BH[..., None].expand(-1, -1, head_dim)
    A = A_H[:, None, None].expand(-1, head_dim, d_state)
    return update(state_BHPN, x_BHP, dt, A, B_BGN, C_BGN, D=D_H[:, None].expand(-1, head_dim))


def _tensors(size: tuple[int, int, int, int, int], dtype: torch.dtype, pool: int = 0) -> dict[str, Tensor]:
    rows, heads, groups, head_dim, d_state = size
    tensors = {
        "state_BHPN": torch.randn(pool or rows, heads, head_dim, d_state),
        "x_BHP": torch.randn(rows, heads, head_dim, dtype=dtype),
        "dt_BH": torch.rand(rows, heads),
        "A_H": -torch.exp(torch.randn(heads)),
        "B_BGN": torch.randn(rows, groups, d_state, dtype=dtype),
        "C_BGN": torch.randn(rows, groups, d_state, dtype=dtype),
        "D_H": torch.randn(heads),
    }
    if pool:
        tensors["z_BHP"] = torch.randn(rows, heads, head_dim, dtype=dtype)
        tensors["dt_bias_H"] = torch.randn(heads)
        tensors["state_indices_B"] = torch.tensor([pool - 1, -1, 0], dtype=torch.int32)
    return tensors
