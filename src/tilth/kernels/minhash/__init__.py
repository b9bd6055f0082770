"""`minhash`: the smallest image of each document's shingles under each of many random linear maps."""

from __future__ import annotations

import torch
from torch import Tensor

from tilth.kernels.backend import check_device, check_shape, choose_backend, implementation

EMPTY = 0xFFFFFFFF  # what a document without values gets


def minhash(values_N: Tensor, bounds: Tensor, factors_P: Tensor, offsets_P: Tensor) -> Tensor:
    """Return minima_DP, the minimum of (factors_P * value + offsets_P) mod 2**32 over the values of each document.

    Shapes: values_N (N,) uint32, the documents' values one after the other; bounds (D + 1,) int64, where each document
    begins and the last ends; factors_P (P,) uint32, odd, so that each map is a permutation of the 32-bit values;
    offsets_P (P,) uint32. Returns (D, P) uint32, EMPTY for a document without values. All backends give the same bits.
    Source: Broder 1997, "On the resemblance and containment of documents", with Tilth's own linear permutations.
    Raises ValueError for inputs that do not fit, BackendError for a backend that cannot run.
    """
    for name, tensor in (("values_N", values_N), ("factors_P", factors_P), ("offsets_P", offsets_P)):
        if tensor.dtype != torch.uint32 or tensor.dim() != 1:
            raise ValueError(f"{name} is {tensor.dtype} of shape {tuple(tensor.shape)}; expected uint32 of one dimension")
    if bounds.dtype != torch.int64 or bounds.dim() != 1 or not len(bounds):
        raise ValueError(f"bounds is {bounds.dtype} of shape {tuple(bounds.shape)}; expected int64 (D + 1,)")
    check_shape("offsets_P", offsets_P, tuple(factors_P.shape), "P")
    check_device(values_N, bounds=bounds, factors_P=factors_P, offsets_P=offsets_P)
    # torch has hardly any arithmetic on uint32: the operators take the same bits as int32, whose sums and products wrap alike.
    values, factors, offsets = (tensor.view(torch.int32) for tensor in (values_N, factors_P, offsets_P))
    _check_values(len(values_N), bounds, factors)
    return _minhash(values, bounds, factors, offsets, choose_backend(values_N)).view(torch.uint32)


def _check_values(n_values: int, bounds: Tensor, factors: Tensor) -> None:
    if bounds[0] != 0 or bounds[-1] != n_values or bool((bounds[1:] < bounds[:-1]).any()):
        raise ValueError(f"bounds do not divide {n_values} values: they must begin with 0, never fall and end with {n_values}")
    if not bool((factors & 1).all()):
        raise ValueError("factors_P holds an even factor, which maps several values to one")


@torch.library.custom_op("tilth::minhash", mutates_args=())
def _minhash(values: Tensor, bounds: Tensor, factors: Tensor, offsets: Tensor, backend: str) -> Tensor:
    return implementation("minhash", backend).minima(values, bounds, factors, offsets)


@_minhash.register_fake
def _(values: Tensor, bounds: Tensor, factors: Tensor, offsets: Tensor, backend: str) -> Tensor:
    return values.new_empty((bounds.shape[0] - 1, factors.shape[0]))
