"""Similarity sketches on the CPU: each round over the values of all documents that may still have an empty bin."""

from __future__ import annotations

import torch
from torch import Tensor

_BLOCK = 1 << 17  # values at once: their images, 1 MiB, stay in the cache
_EMPTY, _LOW = torch.iinfo(torch.int64).max, 0xFFFFFFFF


def sketches(values: Tensor, bounds: Tensor, maps: Tensor, n_bins: int) -> Tensor:
    """Return (D, n_bins) int32 that hold the bits of uint32; `values` and `maps` are int64 that hold the bits of uint64."""
    lengths = bounds.diff()
    rows = torch.repeat_interleave(lengths) * n_bins  # of each value, the first bin of its document
    unfinished = lengths.nonzero()[:, 0]
    # Round and lower half of the image: what is smaller is of an earlier round, so that a later one changes no filled bin.
    bins = values.new_full((len(lengths), n_bins), _EMPTY)
    n_since = 0
    for turn, (factor, offset) in enumerate(maps.tolist()):
        for block, block_rows in zip(values.split(_BLOCK), rows.split(_BLOCK), strict=True):
            _make_round(bins, block, block_rows, turn, factor, offset)
        n_since += len(values)
        if n_since < len(unfinished) * n_bins:  # to look at all bins would take longer than another round
            continue
        n_since = 0
        unfinished = unfinished[bins.index_select(0, unfinished).amax(dim=1) == _EMPTY]
        n_left = int(lengths[unfinished].sum())
        if not n_left:
            break
        if n_left <= len(values) // 2:
            is_unfinished = torch.zeros(len(lengths), dtype=torch.bool)
            is_unfinished[unfinished] = True
            kept = is_unfinished[rows // n_bins].nonzero()[:, 0]
            values, rows = values.index_select(0, kept), rows.index_select(0, kept)
    return bins.to(torch.int32)  # the lower halves


def _make_round(bins: Tensor, values: Tensor, rows: Tensor, turn: int, factor: int, offset: int) -> None:
    """Let all values, or a block of them, fall into the bins of their documents, where the smallest stays."""
    n_bins = bins.shape[1]
    images = (values * factor).add_(offset)  # modulo 2**64, as for unsigned numbers
    if turn < n_bins:
        own = (images >> 32).bitwise_and_(_LOW).mul_(n_bins).bitwise_right_shift_(32).add_(rows)
    else:
        own = rows + (turn - n_bins)
    bins.view(-1).scatter_reduce_(0, own, images.bitwise_and_(_LOW).bitwise_or_(turn << 32), "amin")
