"""Fixed random numbers, the rule of accuracy on poisoned memory, and inputs of sketches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
import triton  # noqa: F401 (now, while TRITON_INTERPRET is set: tests that unset it must not be the first to import it)

from tilth.kernels import accuracy

Inputs = dict[str, Any]


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    """Every test draws the same numbers in every run: what the rule allows is the error of one draw."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.fixture
def poisoned_memory() -> Iterator[None]:
    with accuracy.poisoned_memory():
        yield


@pytest.fixture
def hold_to_rule(poisoned_memory: None) -> Callable[..., None]:
    """Return hold_to_rule(function, backend, tensors, **options), which fails where an output or gradient is too far off."""

    def check(function: Callable[..., Any], backend: str | None, tensors: Inputs, **options: Any) -> None:
        found = accuracy.deviations(function, backend, tensors, **options)
        assert found
        assert not [deviation for deviation in found if not deviation.is_allowed]

    return check


@pytest.fixture
def sketch_inputs() -> Callable[..., Inputs]:
    """Make documents of the given lengths, with values and maps from the whole range of uint64, its edges and odd factors.

    The first round's map changes nothing: in it the edges are images, and the largest ones lie alone in their bins.
    """

    def make(lengths: Sequence[int], n_bins: int, seed: int = 0) -> Inputs:
        chance = np.random.default_rng(seed)
        edges = np.array([0, 2**31 - 1, 2**32 - 1, 2**32, 2**63 - 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1], np.uint64)

        def words(*shape: int) -> Any:
            drawn = chance.integers(0, 2**64, shape, dtype=np.uint64)
            return np.where(chance.random(shape) < 0.2, chance.choice(edges, shape), drawn)

        maps = words(2 * n_bins, 2)
        maps[:, 0] |= np.uint64(1)
        maps[0] = 1, 0
        bounds = np.concatenate([[0], np.cumsum(np.array(lengths, np.int64))]).astype(np.int64)
        arrays = {"values_N": words(sum(lengths)), "bounds": bounds, "maps": maps}
        return {name: torch.from_numpy(array) for name, array in arrays.items()} | {"n_bins": n_bins}

    return make


@pytest.fixture
def sketch_of_the_largest_image() -> tuple[Inputs, list[int]]:
    """Inputs whose first round, which changes nothing, leaves 2**32 - 1 in a bin that later rounds would give 0; the sketch."""
    rounds = torch.tensor([[1, 0], *[[1, 1]] * 7]).to(torch.uint64)
    values = torch.tensor([2**32 - 1, 2**63 + 2**62 + 5], dtype=torch.uint64)  # in the first bin of four and the last
    inputs = {"values_N": values, "bounds": torch.tensor([0, 2]), "maps": rounds, "n_bins": 4}
    return inputs, [2**32 - 1, 0, 0, 5]
