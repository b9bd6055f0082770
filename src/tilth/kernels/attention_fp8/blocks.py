"""What e4m3 blocks are: their number, their scales, and the rotation that comes before them."""

from __future__ import annotations

import functools
import random

import torch
from torch import Tensor

from tilth.kernels.backend import check_device, check_shape

LARGEST = 448.0
"""The largest value of e4m3."""
SMALLEST_SIZE = 1e-30
"""Taken as the largest size of a block of zeros, so that its scale is one to divide by."""
WEIGHT_SCALE = 256.0
"""What a softmax weight is multiplied with before it is rounded to e4m3, whose normal numbers begin at 2**-6: weights
down to 2**-14 of the largest keep all their bits. A power of two is exact, and the largest that keeps 1 below 448."""


def n_blocks(n_tokens: int, block_size: int) -> int:
    """Return the number of blocks, the last of which may be shorter."""
    return (n_tokens + block_size - 1) // block_size


def check_rotation(x_BTHD: Tensor, hadamard: bool, signs_D: Tensor | None) -> None:
    """Raise ValueError unless `signs_D` fits; that they are +1 and -1 is checked on the CPU only, where nothing waits."""
    if signs_D is None:
        return
    if not hadamard:
        raise ValueError("signs_D are those of the Hadamard rotation; expected None without hadamard=True")
    check_shape("signs_D", signs_D, (x_BTHD.shape[3],), "D")
    check_device(x_BTHD, signs_D=signs_D)


@functools.cache
def default_signs(head_dim: int) -> Tensor:
    """Return the signs (D,) on the CPU: random, and the same in every process, since caches may outlive one."""
    chance = random.Random(head_dim)
    return torch.tensor([chance.choice((-1.0, 1.0)) for _ in range(head_dim)])


@functools.cache
def hadamard_matrix(size: int) -> Tensor:
    """Return the Hadamard matrix of Sylvester, of +1 and -1: entry (i, j) is -1 to the number of bits that i and j share."""
    matrix = torch.ones(1, 1)
    while len(matrix) < size:
        matrix = torch.cat([torch.cat([matrix, matrix], dim=1), torch.cat([matrix, -matrix], dim=1)])
    return matrix


def rotation(head_dim: int, signs_D: Tensor | None, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return diag(signs) H, exact in any dtype; 1 / sqrt(D) of it is orthogonal."""
    if signs_D is None:
        return _default_rotation(head_dim, device, dtype)
    return (signs_D.to(torch.float32)[:, None] * hadamard_matrix(head_dim).to(device)).to(dtype)


@functools.cache
def _default_rotation(head_dim: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    return (default_signs(head_dim)[:, None] * hadamard_matrix(head_dim)).to(device=device, dtype=dtype)


def rotated(x_BTHD: Tensor, hadamard: bool, signs_D: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Return the rows of x in `dtype`, turned where `hadamard`."""
    x = x_BTHD.to(dtype)
    if not hadamard:
        return x
    head_dim = x.shape[-1]
    return (x @ rotation(head_dim, signs_D, x.device, dtype)) / head_dim**0.5


def scales_of(y_BTHD: Tensor, block_size: int) -> Tensor:
    """Return the scale of every block (B, N, H)."""
    n_batch, n_tokens, n_heads, _ = y_BTHD.shape
    missing = -n_tokens % block_size
    size_BTH = torch.nn.functional.pad(y_BTHD.abs().amax(dim=3), (0, 0, 0, missing))
    size_BNH = size_BTH.view(n_batch, n_blocks(n_tokens, block_size), block_size, n_heads).amax(dim=2)
    return size_BNH.clamp_(min=SMALLEST_SIZE) / LARGEST


def of_rows(scales_BNH: Tensor, n_tokens: int, block_size: int) -> Tensor:
    """Return the scale of every row (B, T, H, 1)."""
    return scales_BNH.repeat_interleave(block_size, dim=1)[:, :n_tokens, :, None]


def dequantize_blocks(x8_BTHD: Tensor, scales_BNH: Tensor, block_size: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return what `quantize_blocks` stands for, in `dtype`: still turned where it was turned."""
    return x8_BTHD.to(dtype) * of_rows(scales_BNH.to(dtype), x8_BTHD.shape[1], block_size)


def seen_keys(n_queries: int, n_keys: int, left: int, right: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the first key that each query sees and the end of those that it sees (Tq,); the last query is the last key."""
    place_T = torch.arange(n_keys - n_queries, n_keys, device=device)
    first_T = torch.zeros_like(place_T) if left < 0 else (place_T - left).clamp(min=0)
    end_T = torch.full_like(place_T, n_keys) if right < 0 else (place_T + right + 1).clamp(max=n_keys)
    return first_T, end_T
