"""Calls of similarity_sketch, whose values are integers: they have no gradients and no types but one."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from kernel_calls.call import Call
from tilth.kernels import similarity_sketch

CLAIMS = {"_sketch_kernel": {"spills": "sm_100 puts 8 bytes on the stack"}}
_LIMITS = torch.iinfo(torch.int64)


def gate_calls(dtype: torch.dtype) -> Iterator[Call]:
    """Few bins and many, once and not for every type."""
    if dtype == torch.bfloat16:
        for n_bins in (6, 16, 192):
            yield sketch_call([40, 0, 3], n_bins, "cpu")


def check_calls(dtype: torch.dtype, device: str) -> Iterator[Call]:
    """Empty documents, one value, many; bins that fill warps and that do not."""
    if dtype == torch.float32:
        for lengths, n_bins in (([0], 1), ([1, 0, 31, 32, 33, 100], 6), ([70, 3], 16), ([300, 0, 65], 192), ([600], 250)):
            yield sketch_call(lengths, n_bins, device)


def bench_calls(device: str) -> Iterator[Call]:
    """Near-duplicates' signatures: 200,000 documents of about 300 values; each value and bound is read once."""
    lengths = torch.randint(20, 581, (200_000,), generator=torch.Generator().manual_seed(0)).tolist()
    yield sketch_call(lengths, 192, device)


def sketch_call(lengths: list[int], n_bins: int, device: str) -> Call:
    """Return the call for documents of so many values each."""
    generator = torch.Generator().manual_seed(0)

    def words(*shape: int) -> torch.Tensor:
        return torch.randint(_LIMITS.min, _LIMITS.max, shape, generator=generator)

    bounds = torch.nn.functional.pad(torch.tensor(lengths).cumsum(0), (1, 0))
    maps = words(2 * n_bins, 2)
    maps[:, 0] |= 1
    values = words(sum(lengths))
    tensors = {"values_N": values.view(torch.uint64), "bounds": bounds, "maps": maps.view(torch.uint64)}
    return Call(
        f"{len(lengths)} documents, {n_bins} bins",
        similarity_sketch,
        {name: tensor.to(device) for name, tensor in tensors.items()},
        {"n_bins": n_bins},
        gradients=False,
        forward_bytes=8 * (len(values) + len(bounds)) + 4 * n_bins * len(lengths),
    )
