"""Stochastic rounding to bfloat16, from noise that is a function of seed, step, tensor and element."""

from __future__ import annotations

import torch
from torch import Tensor

_WORD = 2**32 - 1
FACTORS = (0x7FEB352D, 0x846CA68B)
"""Of the mixer of 32-bit words that Wellons found by search ("lowbias32"): a bijection; each bit moves half the others."""
LOW = 1 << 16
"""An element is mixed in as two numbers: what is above its 16 low bits, and those."""


def key(seed: int, step: int, index: int) -> int:
    """Return the word that the noise of one tensor at one step grows from."""
    mixed = 0
    for number in (seed, seed >> 32, step, index):
        mixed = _mix_int((mixed ^ number) & _WORD)
    return mixed


def noise(key: int, shape_like: Tensor) -> Tensor:
    """Return 32 random bits for each element, in order of memory, as int32 of the shape and strides of `shape_like`."""
    element = torch.arange(shape_like.numel(), device=shape_like.device)
    words = mix(mix(_signed(key) ^ (element // LOW).to(torch.int32)) ^ (element % LOW).to(torch.int32))
    return words.as_strided(shape_like.shape, shape_like.stride())


def mix(words: Tensor) -> Tensor:
    """Return the mixed words; int32, of which torch's shift to the right copies the sign."""
    words = words ^ (words >> 16 & 0xFFFF)
    words = words * FACTORS[0]
    words = words ^ (words >> 15 & 0x1FFFF)
    words = words * _signed(FACTORS[1])
    return words ^ (words >> 16 & 0xFFFF)


def round_by(values: Tensor, bits: Tensor) -> Tensor:
    """Round float32 to bfloat16: up where the low half of the value and the low 16 of `bits` add up past the half word."""
    words = values.view(torch.int32)
    rounded = (words + (bits & 0xFFFF) >> 16 << 16).view(torch.float32)
    return torch.where(torch.isfinite(values), rounded, values).to(torch.bfloat16)


def _mix_int(word: int) -> int:
    word ^= word >> 16
    word = word * FACTORS[0] & _WORD
    word ^= word >> 15
    word = word * FACTORS[1] & _WORD
    return word ^ word >> 16


def _signed(word: int) -> int:
    return word - 2**32 if word >= 2**31 else word
