"""Calls of sign_matmul and of its grouped form."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from kernel_calls.call import Call
from tilth.kernels import sign_matmul, sign_matmul_grouped

# The signs are unpacked into the registers that the next product reads, so a product ends before the next begins; that
# costs little where the words are what is waited for, and something at 64 rows.
CLAIMS = {"_forward_kernel": {"serialized": "signs are made in registers between the products"}}


def gate_calls(dtype: torch.dtype) -> Iterator[Call]:
    """Every number of rows that has a launch of its own, one matrix with gradients, tenants, a long K that is split."""
    for n_rows in (16, 64):
        yield Call(f"M={n_rows}", sign_matmul, _single(n_rows, 64, 64, dtype, "cpu"))
    yield Call("tenants M=16", sign_matmul_grouped, _grouped(16, 64, 64, 4, dtype, "cpu"), gradients=False)
    yield Call("split", sign_matmul, _single(16, 4096, 64, dtype, "cpu"), gradients=False)


def check_calls(dtype: torch.dtype, device: str) -> Iterator[Call]:
    """Odd sizes of each dimension, K that is no whole number of words, tenants that no row has and rows of no tenant."""
    for n_rows, k, n in ((1, 4096, 4096), (13, 257, 129), (64, 1000, 300), (200, 4100, 1030)):
        yield Call(f"M={n_rows} K={k} N={n}", sign_matmul, _single(n_rows, k, n, dtype, device))
    for n_rows, n_tenants in ((1, 3), (16, 8), (33, 16), (200, 5)):
        tensors = _grouped(n_rows, 1056, 700, n_tenants, dtype, device)
        yield Call(f"M={n_rows} tenants={n_tenants}", sign_matmul_grouped, tensors)


def bench_calls(device: str) -> Iterator[Call]:
    """A decode step of 8 and of 16 tenants, one row each, with the product of the base; a matrix of its own each as the peer."""
    k = n = 4096
    for n_tenants in (8, 16):
        tensors = _grouped(n_tenants, k, n, n_tenants, torch.bfloat16, device)
        tensors["tenants_M"] = torch.arange(n_tenants, dtype=torch.int32, device=device)
        del tensors["add_to_MN"]
        tensors["base_NK"] = torch.randn(n, k, dtype=torch.bfloat16, device=device)
        tensors["dense_EKN"] = torch.randn(n_tenants, k, n, dtype=torch.bfloat16, device=device)
        n_bytes = k * n * (2 + n_tenants / 8)
        yield Call(
            f"base and {n_tenants} tenants K=N={k}",
            with_base,
            tensors,
            gradients=False,
            forward_bytes=n_bytes,
            peers={"torch.bmm of a bf16 matrix each": separate_models},
        )
    for n_rows in (1, 512):
        tensors = _single(n_rows, k, n, torch.bfloat16, device)
        yield Call(
            f"M={n_rows} K=N={k}",
            sign_matmul,
            tensors,
            forward_bytes=k * n / 8,
            forward_flops=2.0 * n_rows * k * n,
            backward_flops=4.0 * n_rows * k * n,
        )


def with_base(base_NK: Tensor, dense_EKN: Tensor, x_MK: Tensor, **tensors: Tensor) -> Tensor:
    """One dense product for all tenants, and each one's signs added onto it."""
    return sign_matmul_grouped(x_MK, **tensors, add_to_MN=torch.mm(x_MK, base_NK.T))


def separate_models(dense_EKN: Tensor, x_MK: Tensor, **_: Any) -> Tensor:
    """A dense matrix for each tenant."""
    return torch.bmm(x_MK.unsqueeze(1), dense_EKN)


def _single(n_rows: int, k: int, n: int, dtype: torch.dtype, device: str) -> dict[str, Tensor | None]:
    return {
        "x_MK": torch.randn(n_rows, k, dtype=dtype, device=device),
        "packed_PN": torch.randint(-(2**31), 2**31 - 1, (-(-k // 32), n), dtype=torch.int32, device=device),
        "scale": torch.tensor(0.01, device=device),
        "row_scale_N": torch.rand(n, dtype=dtype, device=device),
        "column_scale_K": torch.rand(k, dtype=dtype, device=device),
        "add_to_MN": torch.randn(n_rows, n, dtype=dtype, device=device),
    }


def _grouped(n_rows: int, k: int, n: int, n_tenants: int, dtype: torch.dtype, device: str) -> dict[str, Tensor | None]:
    one = _single(n_rows, k, n, dtype, device)
    return {
        "x_MK": one["x_MK"],
        "packed_EPN": torch.randint(-(2**31), 2**31 - 1, (n_tenants, -(-k // 32), n), dtype=torch.int32, device=device),
        "tenants_M": torch.randint(-1, n_tenants, (n_rows,), dtype=torch.int32, device=device),
        "scale_E": torch.rand(n_tenants, dtype=dtype, device=device),
        "row_scale_EN": torch.rand(n_tenants, n, dtype=dtype, device=device),
        "column_scale_EK": torch.rand(n_tenants, k, dtype=dtype, device=device),
        "add_to_MN": one["add_to_MN"],
    }
