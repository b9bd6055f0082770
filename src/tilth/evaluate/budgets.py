"""Coverage and accuracy against seconds: what had been completed by second t, at the batch that completes most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tilth.evaluate.samples import SampleTable
from tilth.evaluate.votes import Choose

Clock = Literal["run", "problem"]


@dataclass(frozen=True)
class Trial:
    """The samples that a run drew at one batch size, and the bytes it needed for it (None = not measured)."""

    run: str
    batch: int
    table: SampleTable
    memory_bytes: int | None = None


@dataclass(frozen=True, eq=False)
class Curve:
    """Of T budgets in seconds per problem: the mean over problems, its interval, samples completed per problem, the batch."""

    run: str
    seconds_T: NDArray[np.float64]
    mean_T: NDArray[np.float64]
    low_T: NDArray[np.float64]
    high_T: NDArray[np.float64]
    n_completed_T: NDArray[np.float64]
    batch_T: NDArray[np.int64]


def completed_by(seconds_PN: ArrayLike, t: float) -> NDArray[np.bool_]:
    """Which samples of each problem had finished by second t."""
    raise NotImplementedError


def seconds_of(table: SampleTable, clock: Clock = "run") -> NDArray[np.float64]:
    """(P, N) seconds per problem after which each sample was there; infinity = never."""
    raise NotImplementedError


def budget_curve(
    trials: Sequence[Trial],
    seconds_T: ArrayLike,
    choose: Choose | None = None,
    *,
    clock: Clock = "run",
    memory_bytes: int | None = None,
    n_draws: int = 2000,
    seed: int = 0,
) -> Curve:
    """Coverage (choose None) or accuracy of one run against seconds, at each budget by the batch that has completed most."""
    raise NotImplementedError


def common_memory(trials: Sequence[Trial]) -> int:
    """The bytes at which runs can be compared: the least over runs of the most that each used."""
    raise NotImplementedError
