"""`similarity_sketch`: what each bin of a document keeps of its shingles; texts x bins, near-duplicates agree in most bins."""

from __future__ import annotations

import torch
from torch import Tensor

from tilth.kernels.backend import check_device, check_shape, choose_backend, implementation

EMPTY = 0xFFFFFFFF  # what a document without values gets


def similarity_sketch(values_N: Tensor, bounds: Tensor, maps: Tensor, n_bins: int) -> Tensor:
    """Return words_DB, the sketch of each document's set of values: `tilth.dedup.minhash.sketch` on any device.

    Shapes: values_N (N,) uint64, the documents' values one after the other; bounds (D + 1,) int64, where each document
    begins and the last ends; maps (2 * n_bins, 2) uint64, an odd factor and an offset for each round. In a round every
    value has the image factor * value + offset modulo 2**64; the image's upper half says the bin, (upper * n_bins) >> 32,
    or from round n_bins on the bin is round - n_bins; a bin that was empty takes the smallest lower half of its images.
    Returns (D, n_bins) uint32, EMPTY for a document without values. All backends give the same bits.
    Source: Dahlgaard, Knudsen and Thorup 2017, "Fast similarity sketching" (arXiv:1704.04370).
    Raises ValueError for inputs that do not fit, BackendError for a backend that cannot run.
    """
    if n_bins < 1:
        raise ValueError(f"n_bins is {n_bins}; expected at least 1")
    if values_N.dtype != torch.uint64 or values_N.dim() != 1:
        raise ValueError(f"values_N is {values_N.dtype} of shape {tuple(values_N.shape)}; expected uint64 of one dimension")
    if bounds.dtype != torch.int64 or bounds.dim() != 1 or not len(bounds):
        raise ValueError(f"bounds is {bounds.dtype} of shape {tuple(bounds.shape)}; expected int64 (D + 1,)")
    if maps.dtype != torch.uint64:
        raise ValueError(f"maps is {maps.dtype}; expected uint64")
    check_shape("maps", maps, (2 * n_bins, 2), "2 * n_bins, factor and offset")
    check_device(values_N, bounds=bounds, maps=maps)
    # torch has hardly any arithmetic on uint64: the operators take the same bits as int64, whose sums and products wrap alike.
    values, signed_maps = values_N.view(torch.int64), maps.view(torch.int64)
    _check_values(len(values), bounds, signed_maps)
    return _similarity_sketch(values, bounds, signed_maps, n_bins, choose_backend(values_N)).view(torch.uint32)


def _check_values(n_values: int, bounds: Tensor, maps: Tensor) -> None:
    if bounds[0] != 0 or bounds[-1] != n_values or bool((bounds[1:] < bounds[:-1]).any()):
        raise ValueError(f"bounds do not divide {n_values} values: they must begin with 0, never fall and end with {n_values}")
    if not bool((maps[:, 0] & 1).all()):
        raise ValueError("maps holds an even factor, which maps several values to one")


@torch.library.custom_op("tilth::similarity_sketch", mutates_args=())
def _similarity_sketch(values: Tensor, bounds: Tensor, maps: Tensor, n_bins: int, backend: str) -> Tensor:
    return implementation("similarity_sketch", backend).sketches(values, bounds, maps, n_bins)


@_similarity_sketch.register_fake
def _(values: Tensor, bounds: Tensor, maps: Tensor, n_bins: int, backend: str) -> Tensor:
    return values.new_empty((bounds.shape[0] - 1, n_bins), dtype=torch.int32)
