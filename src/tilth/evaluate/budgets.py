"""Coverage and accuracy against seconds: what had been completed by second t, at the batch that completes most.

A sample counts from the second at which it can be used, so prefill, waiting, scoring and the tail of a batch are all in it. A
rate of samples per second times t would leave the tail out, and would count a share of a sample that nobody has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tilth.errors import UserError
from tilth.evaluate.coverage import bootstrap_columns
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
    """(P, N) which samples of each problem had finished by second t, that second included; infinity never has."""
    return np.asarray(seconds_PN, dtype=np.float64) <= min(t, np.finfo(np.float64).max)


def seconds_of(table: SampleTable, clock: Clock = "run") -> NDArray[np.float64]:
    """(P, N) seconds per problem after which each sample was there; infinity = never.

    clock "run": seconds since the start of the run, divided by the number of problems. It is right whatever shared a batch with
    what, and says what a budget of t x P seconds for all P problems gives in the order in which they were sampled. clock
    "problem": seconds since the problem was handed in; only for problems that ran one after the other, since two that run at
    once slow each other down: raises UserError where two overlap.
    """
    if clock == "run":
        return table.finished_PN / len(table.problems)
    spans = sorted((row[0], max(sample.finished for sample in row[1])) for row in zip(table.started_P, table.rows) if row[1])
    if any(later[0] < earlier[1] for earlier, later in pairwise(spans)):
        raise UserError(
            "problems were sampled at the same time, so the seconds of one are those of others too",
            fix='sample one problem after the other, or use the clock "run"',
        )
    return table.finished_PN - np.where(np.isfinite(table.started_P), table.started_P, 0.0)[:, None]


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
    """Coverage (choose None) or accuracy of one run against seconds, at each budget by the batch that has completed most.

    trials: the sweep of one run over batches, on the same problems. Coverage is the share of problems with a right sample among
    those completed by second t; accuracy the share where `choose` of those, in the order in which they came, is right.
    The batch at each budget is the one with most completed samples per problem (the smaller of equals): the largest k that the
    budget buys. It is not the one with the best outcome, which would take the luckiest of several measurements, and would do so
    more often for whoever tried more batches. So a curve over a sweep may fall where the batch changes; that of one batch
    never does, if it is coverage. memory_bytes keeps only the batches that needed no more: equal memory.
    The interval is over problems (`bootstrap`). Raises UserError for trials of several runs or other problems, for none within
    the memory, and as `seconds_of` does.
    """
    seconds_T = np.atleast_1d(np.asarray(seconds_T, dtype=np.float64))
    values_PT, n_completed_T, batch_T = _at_best_batch(_comparable(trials, memory_bytes), seconds_T, choose, clock)
    mean_T, low_T, high_T = bootstrap_columns(values_PT, n_draws, seed)
    return Curve(trials[0].run, seconds_T, mean_T, low_T, high_T, n_completed_T, batch_T)


def budget_difference(
    first: Sequence[Trial],
    second: Sequence[Trial],
    seconds_T: ArrayLike,
    choose: Choose | None = None,
    *,
    clock: Clock = "run",
    memory_bytes: int | None = None,
    n_draws: int = 2000,
    seed: int = 0,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """(T,) means, lows and highs of the first run's curve less the second's, problem by problem.

    This, not whether two intervals overlap, says from which budget on a student is above its teacher. As `budget_curve`.
    """
    seconds_T = np.atleast_1d(np.asarray(seconds_T, dtype=np.float64))
    if first and second and first[0].table.problems != second[0].table.problems:
        raise UserError("the two runs were sampled on other problems, or in another order", fix="sample both on the same file")
    both = [_at_best_batch(_comparable(trials, memory_bytes), seconds_T, choose, clock)[0] for trials in (first, second)]
    return bootstrap_columns(both[0] - both[1], n_draws, seed)


def common_memory(runs: Sequence[Sequence[Trial]]) -> int:
    """The bytes at which runs are compared, given the trials of each: the least over runs of the most that each used.

    Raises UserError for a trial whose memory was not measured, a run without trials, and no run.
    """
    for trial in (trial for trials in runs for trial in trials if trial.memory_bytes is None):
        raise UserError(f"the memory of run `{trial.run}` at batch {trial.batch} was not measured", fix="sample it again")
    if not runs or not all(runs):
        raise UserError("there is no run to compare", fix="sample two runs at one batch or more")
    return min(max(trial.memory_bytes or 0 for trial in trials) for trials in runs)


def shared_budgets(trials: Sequence[Trial], n: int = 60, clock: Clock = "run") -> NDArray[np.float64]:
    """n budgets for a chart, evenly spaced in their logarithm, from the first completed sample of any trial to the last."""
    seconds = np.concatenate([seconds_of(trial.table, clock).ravel() for trial in trials] or [np.empty(0)])
    seconds = seconds[np.isfinite(seconds) & (seconds > 0)]
    if not len(seconds):
        raise UserError("no sample was completed", fix="give the run more time, or more tokens a sample")
    grid_T = np.geomspace(seconds.min(), seconds.max(), n)
    # the last budget holds the last sample, whatever the rounding
    grid_T[-1] = seconds.max()
    return grid_T


def _comparable(trials: Sequence[Trial], memory_bytes: int | None) -> list[Trial]:
    if not trials:
        raise UserError("there is no trial of the run", fix="sample it at one batch or more")
    if len({trial.run for trial in trials}) > 1 or len({trial.table.problems for trial in trials}) > 1:
        raise UserError("the trials are not of one run on the same problems", fix="draw one curve for each run")
    if memory_bytes is None:
        return list(trials)
    within = [trial for trial in trials if trial.memory_bytes is not None and trial.memory_bytes <= memory_bytes]
    if not within:
        raise UserError(
            f"run `{trials[0].run}` has no batch that is known to need at most {memory_bytes:,} bytes",
            fix="sample it at a smaller batch, or compare at more memory",
        )
    return within


def _at_best_batch(
    trials: Sequence[Trial], seconds_T: NDArray[np.float64], choose: Choose | None, clock: Clock
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """(P, T) outcomes, (T,) completed samples per problem, (T,) batches."""
    trials = sorted(trials, key=lambda trial: trial.batch)
    seconds = [seconds_of(trial.table, clock) for trial in trials]
    n_completed_BT = np.array([[completed_by(one, t).sum() / len(one) for t in seconds_T] for one in seconds])
    best_T = n_completed_BT.argmax(axis=0)
    values_PT = np.zeros((len(trials[0].table.problems), len(seconds_T)))
    for b in np.unique(best_T):
        at_T = best_T == b
        values_PT[:, at_T] = _outcomes(trials[b].table, seconds[b], seconds_T[at_T], choose)
    batch_T = np.array([trial.batch for trial in trials])[best_T]
    return values_PT, n_completed_BT.max(axis=0), batch_T


def _outcomes(
    table: SampleTable, seconds_PN: NDArray[np.float64], seconds_T: NDArray[np.float64], choose: Choose | None
) -> NDArray[np.float64]:
    """(P, T) 1 where the problem is solved by second t, else 0."""
    if choose is None:
        first_right_P = np.where(table.is_correct_PN, seconds_PN, np.inf).min(axis=1)
        return np.array([completed_by(first_right_P, t) for t in seconds_T], dtype=np.float64).T
    outcomes_PT = np.zeros((len(table.problems), len(seconds_T)))
    for p, samples in enumerate(table.rows):
        right = {sample.answer for sample in samples if sample.is_correct and sample.is_complete}
        if not right:
            continue
        seconds_N = seconds_PN[p]
        order_N = np.argsort(seconds_N, kind="stable")[: int(np.isfinite(seconds_N).sum())]
        is_right = [False, *(choose([samples[i] for i in order_N[:m]]) in right for m in range(1, len(order_N) + 1))]
        n_done_T = np.searchsorted(seconds_N[order_N], seconds_T, side="right")
        outcomes_PT[p] = np.array(is_right, dtype=np.float64)[n_done_T]
    return outcomes_PT
