"""Coverage without bias (pass@k, pass^k), and intervals over problems."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class Interval:
    """A mean over problems, and where it lies were other problems of the same kind drawn."""

    mean: float
    low: float
    high: float


def pass_at_k(n: ArrayLike, c: ArrayLike, k: int) -> NDArray[np.float64]:
    """The chance that at least one of k samples is right, of each problem with c right ones of n."""
    raise NotImplementedError


def pass_power_k(n: ArrayLike, c: ArrayLike, k: int) -> NDArray[np.float64]:
    """The chance that all of k samples are right, of each problem with c right ones of n."""
    raise NotImplementedError


def bootstrap(values_P: ArrayLike, n_draws: int = 2000, seed: int = 0, level: float = 0.95) -> Interval:
    """The mean over problems with its percentile interval from n_draws resamplings of problems."""
    raise NotImplementedError
