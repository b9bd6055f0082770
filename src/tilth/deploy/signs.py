"""The BitDelta code of a matrix: one sign bit per weight, and one scale.

Source: Liu et al., "BitDelta: Your Fine-Tune May Only Be Worth One Bit" (arXiv 2402.10193). The
layout of the bits is that of its published files, so that its kernels can read them.
"""

from __future__ import annotations

import torch
from torch import Tensor

WORD_BITS = 32


def n_words(n_inputs: int) -> int:
    """int32 words that hold the bits of n_inputs weights."""
    return -(-n_inputs // WORD_BITS)


def pack_signs(difference_NK: Tensor) -> Tensor:
    """int32 (ceil(K/32), N): bit j of word (i, n) is 1 where difference[n, 32 i + j] >= 0.

    Both zeros count as positive. Bits past K are 0.
    """
    n_outputs, n_inputs = difference_NK.shape
    bits_KN = torch.zeros(n_words(n_inputs) * WORD_BITS, n_outputs, dtype=torch.int32)
    bits_KN[:n_inputs] = (difference_NK >= 0).T
    words_WN = torch.zeros(n_words(n_inputs), n_outputs, dtype=torch.int32)
    for j in range(WORD_BITS):
        words_WN |= bits_KN[j::WORD_BITS] << j
    return words_WN


def unpack_signs(words_WN: Tensor, n_inputs: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """(N, K) of +1 and -1, the inverse of pack_signs."""
    bits_WBN = (words_WN[:, None, :] >> torch.arange(WORD_BITS, dtype=torch.int32)[:, None]) & 1
    bits_KN = bits_WBN.flatten(0, 1)[:n_inputs]
    return (2 * bits_KN - 1).T.to(dtype)


def encode_signs(difference_NK: Tensor) -> dict[str, Tensor]:
    """Packed signs, and the scale that loses least in the L2 norm: mean |difference|, fp32 ()."""
    # summed in fp64: the scale of a large matrix must not depend on the order of a fp32 sum
    scale = difference_NK.abs().mean(dtype=torch.float64).float()
    return {"signs": pack_signs(difference_NK), "scale": scale}


def decode_signs(parts: dict[str, Tensor], shape: tuple[int, int]) -> Tensor:
    """fp32 (N, K): scale * sign; differentiable in the scale."""
    return parts["scale"] * unpack_signs(parts["signs"], shape[1])


def check_signs(parts: dict[str, Tensor], shape: tuple[int, int]) -> str | None:
    """What is wrong with the parts of a matrix of that shape; None = nothing."""
    if parts.keys() != {"signs", "scale"}:
        return f"has the parts {sorted(parts)} instead of scale and signs"
    signs, scale = parts["signs"], parts["scale"]
    n_outputs, n_inputs = shape
    if signs.dtype != torch.int32 or signs.shape != (n_words(n_inputs), n_outputs):
        return f"has signs {signs.dtype} {tuple(signs.shape)} instead of int32 {(n_words(n_inputs), n_outputs)}"
    if scale.dtype != torch.float32 or scale.shape != ():
        return f"has a scale {scale.dtype} {tuple(scale.shape)} instead of one fp32 number"
    if not torch.isfinite(scale):
        return f"has the scale {scale.item()}"
    n_used = n_inputs % WORD_BITS
    if n_used and bool((signs[-1] >> n_used & ((1 << (WORD_BITS - n_used)) - 1)).any()):
        return "has bits set past its last input"
    return None
