"""One answer out of many samples: majority, weighted majority, best-of-n; and how often that is right with k samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tilth.evaluate.samples import Sample

Choose = Callable[[Sequence[Sample]], str | None]
"""Samples in the order in which they came -> the canonical answer that is chosen, None where no sample has one."""


def majority(samples: Sequence[Sample], ties: Literal["first", "score"] = "first") -> str | None:
    """The answer that most samples give; samples without an answer do not vote."""
    raise NotImplementedError


def weighted_majority(samples: Sequence[Sample]) -> str | None:
    """The answer whose samples' scores sum to most."""
    raise NotImplementedError


def best_of(samples: Sequence[Sample]) -> str | None:
    """The answer of the sample with the highest score among those that have an answer."""
    raise NotImplementedError


def is_decided(counts: Mapping[str, int], n_left: int) -> bool:
    """Whether the leader of a majority vote wins whatever the n_left votes still out will be, however ties are broken."""
    raise NotImplementedError


def accuracy_at_k(
    samples_by_problem: Sequence[Sequence[Sample]], k: int, choose: Choose, n_draws: int = 200, seed: int = 0
) -> NDArray[np.float64]:
    """How often `choose` is right with k samples, of each problem: n_draws times k of its samples without replacement."""
    raise NotImplementedError
