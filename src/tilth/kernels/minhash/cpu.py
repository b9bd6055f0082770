"""MinHash on the CPU: documents of similar length side by side, in blocks that stay in the last-level cache."""

from __future__ import annotations

import torch
from torch import Tensor

_BLOCK = 1 << 20  # images at once: 4 MiB of int32; with less, the calls of torch take longer than the arithmetic
_SIGN = torch.iinfo(torch.int32).min


def minima(values: Tensor, bounds: Tensor, factors: Tensor, offsets: Tensor) -> Tensor:
    """Return (D, P) int32 that hold the bits of uint32; all inputs but `bounds` (int64) are int32 that hold such bits."""
    found = values.new_full((len(bounds) - 1, len(factors)), -1)  # the bits of 2**32 - 1
    lengths, order = (bounds[1:] - bounds[:-1]).sort()
    first = int((lengths == 0).sum())
    # With the sign bit flipped, signed order is unsigned order; adding it to the offsets flips it in every image.
    flipped = offsets ^ _SIGN
    per_block = max(1, _BLOCK // max(1, len(factors)))
    sizes = lengths.tolist()
    while first < len(sizes):
        last = _last_of_block(sizes, first, per_block)
        rows = order[first:last]
        found[rows] = _of_block(values, bounds[rows], lengths[first:last], factors, flipped, per_block)
        first = last
    return found


def _last_of_block(sizes: list[int], first: int, per_block: int) -> int:
    """Where the block of documents from `first` ends (ascending sizes): padded to the longest they fit, or it is one alone."""
    last = min(len(sizes), first + max(1, per_block // sizes[first]))
    while last > first + 1 and (last - first) * sizes[last - 1] > per_block:
        last = first + max(1, (last - first) // 2)
    return last


def _of_block(values: Tensor, begins: Tensor, lengths: Tensor, factors: Tensor, flipped: Tensor, per_block: int) -> Tensor:
    longest, step = int(lengths[-1]), max(1, per_block // len(begins))
    found: Tensor | None = None
    for start in range(0, longest, step):
        # Shorter documents repeat their last value, which changes no minimum.
        places = torch.arange(start, min(start + step, longest)).expand(len(begins), -1).minimum(lengths[:, None] - 1)
        images = values[begins[:, None] + places][:, :, None] * factors
        block = images.add_(flipped).amin(dim=1)
        found = block if found is None else torch.minimum(found, block)
    assert found is not None  # no document of a block is empty
    return found ^ _SIGN
