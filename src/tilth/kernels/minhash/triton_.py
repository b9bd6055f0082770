"""MinHash in Triton: a program for each document and block of maps, one pass over its values, no atomics."""

# Triton reads the annotations of a kernel: only tl.constexpr may stand there.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_MAX_BLOCK_MAPS, _BLOCK_VALUES = 128, 32
_SIGN = torch.iinfo(torch.int32).min


def minima(values: Tensor, bounds: Tensor, factors: Tensor, offsets: Tensor) -> Tensor:
    """Return (D, P) int32 that hold the bits of uint32; all inputs but `bounds` (int64) are int32 that hold such bits."""
    n_documents, n_maps = len(bounds) - 1, len(factors)
    found = torch.empty((n_documents, n_maps), dtype=torch.int32, device=values.device)
    if n_documents and n_maps:
        constants, options = configure(n_maps)
        grid = (n_documents, triton.cdiv(n_maps, constants["BLOCK_MAPS"]))
        # With the sign bit flipped, signed order is unsigned order; adding it to the offsets flips it in every image.
        flipped = offsets.contiguous() ^ _SIGN
        _minima_kernel[grid](
            values.contiguous(), bounds.contiguous(), factors.contiguous(), flipped, found, n_maps, **constants, **options
        )
    return found


def configure(n_maps: int) -> tuple[dict[str, int], dict[str, int]]:
    """The kernel's constants and launch options for so many maps."""
    block = min(_MAX_BLOCK_MAPS, max(16, triton.next_power_of_2(n_maps)))
    return {"BLOCK_MAPS": block, "BLOCK_VALUES": _BLOCK_VALUES}, {"num_warps": 4}


@triton.jit
def _minima_kernel(
    values_ptr, bounds_ptr, factors_ptr, flipped_ptr, minima_ptr, n_maps, BLOCK_MAPS: tl.constexpr, BLOCK_VALUES: tl.constexpr
):
    document = tl.program_id(0).to(tl.int64)
    maps = tl.program_id(1) * BLOCK_MAPS + tl.arange(0, BLOCK_MAPS)
    is_map = maps < n_maps
    factors = tl.load(factors_ptr + maps, mask=is_map, other=1)
    flipped = tl.load(flipped_ptr + maps, mask=is_map, other=0)
    begin = tl.load(bounds_ptr + document)
    n_values = (tl.load(bounds_ptr + document + 1) - begin).to(tl.int32)
    # One running minimum for each lane of values: they are reduced once, at the end.
    lowest = tl.full([BLOCK_MAPS, BLOCK_VALUES], 0x7FFFFFFF, dtype=tl.int32)
    lanes = tl.arange(0, BLOCK_VALUES)
    for first in range(0, n_values, BLOCK_VALUES):
        inside = first + lanes < n_values
        values = tl.load(values_ptr + begin + first + lanes, mask=inside, other=0)
        images = factors[:, None] * values[None, :] + flipped[:, None]
        lowest = tl.minimum(lowest, tl.where(inside[None, :], images, 0x7FFFFFFF))
    found = tl.min(lowest, axis=1) ^ -0x80000000
    tl.store(minima_ptr + document * n_maps + maps, found, mask=is_map)
