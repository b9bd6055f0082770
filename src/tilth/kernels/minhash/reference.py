"""MinHash as its definition, the truth that the other backends are tested against."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF


def minima(values: Tensor, bounds: Tensor, factors: Tensor, offsets: Tensor) -> Tensor:
    """Return (D, P) int32 that hold the bits of uint32; all inputs but `bounds` (int64) are int32 that hold such bits."""
    ends = bounds.tolist()
    unsigned = [tensor.to(torch.int64) & _MASK for tensor in (values, factors, offsets)]
    rows = [_of_document(unsigned[0][begin:end], *unsigned[1:]) for begin, end in pairwise(ends)]
    found = torch.stack(rows) if rows else unsigned[1].new_empty((0, len(factors)))
    # Above 2**31 the same bits are a negative int32.
    return torch.where(found > 0x7FFFFFFF, found - 2**32, found).to(torch.int32)


def _of_document(values: Tensor, factors: Tensor, offsets: Tensor) -> Tensor:
    """Values, factors and offsets in 0 .. 2**32 - 1 as int64 -> the minimum of each map; 2**32 - 1 without values."""
    if not len(values):
        return torch.full_like(factors, _MASK)
    low, high = values & 0xFFFF, values >> 16
    # By halves, since the product of two 32-bit numbers does not fit an int64.
    products = factors[:, None] * low + (((factors[:, None] * high) & 0xFFFF) << 16)
    return ((products + offsets[:, None]) & _MASK).amin(dim=1)
