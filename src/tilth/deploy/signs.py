"""The bits of one-bit codes: the signs of a matrix, 32 inputs to a word.

Source: Liu et al., "BitDelta: Your Fine-Tune May Only Be Worth One Bit" (arXiv 2402.10193). The
layout is that of its published files and of `kernels.sign_matmul`, which multiplies with it as it lies.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import embedding

WORD_BITS = 32


def n_words(n_inputs: int) -> int:
    """int32 words that hold the bits of n_inputs weights."""
    return -(-n_inputs // WORD_BITS)


def pack_signs(difference_NK: Tensor) -> Tensor:
    """int32 (ceil(K/32), N): bit j of word (i, n) is 1 where difference[n, 32 i + j] >= 0.

    Both zeros count as positive. Bits past K are 0.
    """
    n_outputs, n_inputs = difference_NK.shape
    # a byte of NumPy's little bit order is 8 inputs from the lowest bit on, and 4 of them are a little-endian word
    bytes_NB = np.zeros((n_outputs, 4 * n_words(n_inputs)), np.uint8)
    packed_NB = np.packbits((difference_NK >= 0).numpy(), axis=1, bitorder="little")
    bytes_NB[:, : packed_NB.shape[1]] = packed_NB
    words_WN = np.ascontiguousarray(bytes_NB.view("<i4").T)
    return torch.from_numpy(words_WN.astype(np.int32, copy=False))


def unpack_signs(words_WN: Tensor, n_inputs: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """(N, K) of +1 and -1, the inverse of pack_signs."""
    # a clone: torch calls a single column contiguous as it lies, and then cannot see its bytes
    bytes_NB = words_WN.T.clone(memory_format=torch.contiguous_format).view(torch.uint8)
    return embedding(bytes_NB.int(), _signs_of_bytes(dtype)).flatten(1)[:, :n_inputs]


def check_padding(words_WN: Tensor, n_inputs: int) -> str | None:
    """What is wrong with the bits past the last input; None = nothing."""
    n_used = n_inputs % WORD_BITS
    if n_used and bool((words_WN[-1] >> n_used & ((1 << (WORD_BITS - n_used)) - 1)).any()):
        return "has bits set past its last input"
    return None


@functools.cache
def _signs_of_bytes(dtype: torch.dtype) -> Tensor:
    """(256, 8): the signs that each byte stands for."""
    return ((torch.arange(256)[:, None] >> torch.arange(8) & 1) * 2 - 1).to(dtype)
