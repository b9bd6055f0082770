"""The published layout of BitDelta's signs: 32 rows of K in one int32, the lowest bit first."""

from __future__ import annotations

import torch
from torch import Tensor

WORD_BITS = 32


def n_words(n_rows: int) -> int:
    """Return how many int32 hold the bits of `n_rows` rows."""
    return -(-n_rows // WORD_BITS)


def pack(signs_KN: Tensor) -> Tensor:
    """Return int32 (ceil(K / 32), N): bit j of word (i, n) is 1 where signs[32 i + j, n] is True, or a number of at least 0.

    Where K is no multiple of 32 the last word's other bits are 0; the products do not read them.
    Source: Liu et al. 2024, BitDelta (arXiv 2402.10193), and the files that it published, whose K is a multiple of 32.
    Raises ValueError for a tensor that is not a matrix, or is complex.
    """
    if signs_KN.dim() != 2 or signs_KN.shape[0] == 0 or signs_KN.is_complex():
        raise ValueError(f"signs_KN is {signs_KN.dtype} {tuple(signs_KN.shape)}; expected a real matrix (K, N), K at least 1")
    is_plus_KN = signs_KN if signs_KN.dtype == torch.bool else signs_KN >= 0
    words_PN = is_plus_KN.new_zeros(n_words(len(is_plus_KN)), is_plus_KN.shape[1], dtype=torch.int32)
    for bit in range(WORD_BITS):
        rows_N = is_plus_KN[bit::WORD_BITS].to(torch.int32)
        words_PN[: len(rows_N)] |= rows_N << bit
    return words_PN


def unpack(packed_PN: Tensor, n_rows: int, dtype: torch.dtype) -> Tensor:
    """Return (n_rows, N) of +1 and -1: the inverse of `pack`."""
    shifts = torch.arange(WORD_BITS, dtype=torch.int32, device=packed_PN.device)
    bits_PJN = packed_PN.unsqueeze(1) >> shifts.unsqueeze(1) & 1
    return (2 * bits_PJN.flatten(0, 1)[:n_rows] - 1).to(dtype)
