"""The functions of BitDelta's binary_gemm_kernel (Liu et al. 2024), on `sign_matmul`; the packed bits are the same."""

from __future__ import annotations

import torch
from torch import Tensor

from tilth.kernels.sign_matmul import packing, sign_matmul, sign_matmul_grouped


def pack(x: Tensor, n_bits: int = 32) -> Tensor:
    """Return the bits of x (..., K, N), bool, 32 rows of K in one int32: (..., K / 32, N).

    Raises ValueError for another `n_bits`, and where K is no multiple of 32.
    """
    if n_bits != packing.WORD_BITS:
        raise ValueError(f"n_bits is {n_bits}; expected {packing.WORD_BITS}")
    if x.shape[-2] % n_bits:
        raise ValueError(f"x has {x.shape[-2]} rows; expected a multiple of {n_bits}")
    matrices = x.reshape(-1, *x.shape[-2:])
    packed = torch.stack([packing.pack(matrix) for matrix in matrices])
    return packed.reshape(*x.shape[:-2], *packed.shape[-2:])


def unpack(x: Tensor, n_bits: int = 32) -> Tensor:
    """Return the bools (..., K, N) that `pack` took."""
    if n_bits != packing.WORD_BITS:
        raise ValueError(f"n_bits is {n_bits}; expected {packing.WORD_BITS}")
    matrices = x.reshape(-1, *x.shape[-2:])
    signs = torch.stack([packing.unpack(matrix, len(matrix) * n_bits, torch.int8) for matrix in matrices])
    return (signs > 0).reshape(*x.shape[:-2], *signs.shape[-2:])


def binary_matmul(a: Tensor, b: Tensor) -> Tensor:
    """Return a (M, K) times the signs packed in b (K / 32, N). Raises as `sign_matmul` does."""
    return sign_matmul(a, b)


def binary_bmm(a: Tensor, b: Tensor) -> Tensor:
    """Return a (B, M, K) times the signs packed in b (B, K / 32, N), matrix by matrix. Raises as `sign_matmul_grouped` does."""
    n_matrices, n_rows, _ = a.shape
    tenants = torch.arange(n_matrices, dtype=torch.int32, device=a.device).repeat_interleave(n_rows)
    return sign_matmul_grouped(a.flatten(0, 1), b, tenants_M=tenants).unflatten(0, (n_matrices, n_rows))
