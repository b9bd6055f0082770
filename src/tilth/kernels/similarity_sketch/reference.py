"""Similarity sketches as their definition, the truth that the other backends are tested against."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

_LOW = 0xFFFFFFFF


def sketches(values: Tensor, bounds: Tensor, maps: Tensor, n_bins: int) -> Tensor:
    """Return (D, n_bins) int32 that hold the bits of uint32; `values` and `maps` are int64 that hold the bits of uint64."""
    rows = [_of_document(values[begin:end], maps, n_bins) for begin, end in pairwise(bounds.tolist())]
    return torch.stack(rows).to(torch.int32) if rows else bounds.new_empty((0, n_bins), dtype=torch.int32)


def _of_document(values: Tensor, maps: Tensor, n_bins: int) -> Tensor:
    """The words of one document, in 0 .. 2**32 - 1 as int64."""
    bins = torch.arange(n_bins, device=values.device)
    words = torch.full_like(bins, _LOW)
    is_empty = torch.ones_like(bins, dtype=torch.bool)
    turn = 0
    while len(values) and bool(is_empty.any()):
        factor, offset = maps[turn]
        images = values * factor + offset  # modulo 2**64, as for unsigned numbers
        upper, lower = (images >> 32) & _LOW, images & _LOW
        own = (upper * n_bins) >> 32 if turn < n_bins else torch.full_like(values, turn - n_bins)
        is_own = own == bins[:, None]
        takes = is_empty & is_own.any(dim=1)
        words = torch.where(takes, torch.where(is_own, lower, _LOW).amin(dim=1), words)
        is_empty &= ~takes
        turn += 1
    return words
