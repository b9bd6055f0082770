"""Similarity sketches in Triton: a program for each document and block of bins, which stay in registers; no atomics.

A bin is filled by its own images alone, so that each program makes rounds until none of its own bins is empty.
"""

# Triton reads the annotations of a kernel: only tl.constexpr may stand there.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_MAX_BLOCK_BINS, _BLOCK_VALUES = 64, 32
_NONE = tl.constexpr(0x7FFFFFFF)  # above any image but the largest


def sketches(values: Tensor, bounds: Tensor, maps: Tensor, n_bins: int) -> Tensor:
    """Return (D, n_bins) int32 that hold the bits of uint32; `values` and `maps` are int64 that hold the bits of uint64."""
    n_documents = len(bounds) - 1
    found = torch.empty((n_documents, n_bins), dtype=torch.int32, device=values.device)
    if n_documents:
        constants, options = configure(n_bins)
        grid = (n_documents, triton.cdiv(n_bins, constants["BLOCK_BINS"]))
        _sketch_kernel[grid](values.contiguous(), bounds.contiguous(), maps.contiguous(), found, n_bins, **constants, **options)
    return found


def configure(n_bins: int) -> tuple[dict[str, int], dict[str, int]]:
    """The kernel's constants and launch options for so many bins."""
    block = min(_MAX_BLOCK_BINS, max(16, triton.next_power_of_2(n_bins)))
    return {"BLOCK_BINS": block, "BLOCK_VALUES": _BLOCK_VALUES}, {"num_warps": 1}


@triton.jit
def _sketch_kernel(values_ptr, bounds_ptr, maps_ptr, words_ptr, n_bins, BLOCK_BINS: tl.constexpr, BLOCK_VALUES: tl.constexpr):
    document = tl.program_id(0).to(tl.int64)
    bins = tl.program_id(1) * BLOCK_BINS + tl.arange(0, BLOCK_BINS)
    begin = tl.load(bounds_ptr + document)
    n_values = (tl.load(bounds_ptr + document + 1) - begin).to(tl.int32)
    words = tl.full([BLOCK_BINS], -1, dtype=tl.int32)
    is_empty = (bins < n_bins) & (n_values > 0)
    turn = 0
    while tl.max(is_empty.to(tl.int32), axis=0) > 0:
        # From round n_bins on, the one bin of a round takes all: rounds of filled bins are passed over.
        next_empty = tl.min(tl.where(is_empty, bins, n_bins), axis=0)
        turn = tl.where(turn < n_bins, turn, n_bins + next_empty)
        factor = tl.load(maps_ptr + 2 * turn)
        offset = tl.load(maps_ptr + 2 * turn + 1)
        # One running minimum for each lane of values: they are reduced once a round.
        lowest = tl.full([BLOCK_BINS, BLOCK_VALUES], _NONE, dtype=tl.int32)
        is_largest = tl.zeros([BLOCK_VALUES], dtype=tl.int32)
        for first in range(0, n_values, BLOCK_VALUES):
            own, images = _images(values_ptr + begin, first, n_values, factor, offset, turn, n_bins, BLOCK_VALUES)
            lowest = tl.minimum(lowest, tl.where(own[None, :] == bins[:, None], images[None, :], _NONE))
            is_largest |= (images == _NONE).to(tl.int32)
        found = tl.min(lowest, axis=1)
        is_hit = found != _NONE
        if tl.max(is_largest, axis=0) > 0:  # the largest image, one in 2**32, looks like none: its bins are sought
            for first in range(0, n_values, BLOCK_VALUES):
                own, images = _images(values_ptr + begin, first, n_values, factor, offset, turn, n_bins, BLOCK_VALUES)
                is_hit |= tl.max((own[None, :] == bins[:, None]).to(tl.int32), axis=1) > 0
        words = tl.where(is_empty & is_hit, found ^ -0x80000000, words)
        is_empty = is_empty & (is_hit == 0)
        turn += 1
    tl.store(words_ptr + document * n_bins + bins, words, mask=bins < n_bins)


@triton.jit
def _images(values_ptr, first, n_values, factor, offset, turn, n_bins, BLOCK_VALUES: tl.constexpr):
    """The bins that the values fall into, -1 past the end, and what the bins compare: unsigned order made signed."""
    places = first + tl.arange(0, BLOCK_VALUES)
    inside = places < n_values
    images = tl.load(values_ptr + places, mask=inside, other=0) * factor + offset
    own = tl.umulhi((images >> 32).to(tl.uint32), n_bins).to(tl.int32)
    own = tl.where(turn < n_bins, own, turn - n_bins)
    return tl.where(inside, own, -1), images.to(tl.int32) ^ -0x80000000
