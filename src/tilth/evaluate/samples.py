"""What was drawn: samples as rows, and as arrays of problems x samples for what is computed of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tilth.errors import UserError

REFUSED = "refused"
"""Why a sample ended that the engine does not take, such as one of too long a prompt, and would not take a second time."""
CANCELLED = frozenset({"cancelled", "error", REFUSED})
"""Reasons of an end that completes nothing: the text up to there is no sample of the model."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One branch of one problem.

    answer is canonical (None = none was found, or it could not be parsed), is_correct says whether it is the right one.
    finish_reason is the engine's (stop, length, cancelled, error) or REFUSED. started and finished are seconds since the start of
    the run: when the problem's request was handed in, before its prefill, and when the sample could be used, which is after its
    scoring where it has a score. score is the verifier's p(correct).
    """

    problem: str
    branch: int
    text: str
    answer: str | None
    is_correct: bool
    n_tokens: int
    finish_reason: str
    started: float
    finished: float
    score: float | None = None

    @property
    def is_complete(self) -> bool:
        """Whether it ended by itself or by its length; one that was cancelled or refused, or that failed, never completes."""
        return self.finish_reason not in CANCELLED


@dataclass(frozen=True, eq=False)
class SampleTable:
    """Samples of P problems, padded to the N of the problem that has most; make it with `arranged`.

    rows[p] are the samples of problems[p] by branch. What is not there, or never completed, finished at infinity and is not
    correct. started_P is when each problem was handed in (infinity = no sample). n_complete_P
    and n_correct_P are the n and c of pass@k.
    """

    problems: tuple[str, ...]
    rows: tuple[tuple[Sample, ...], ...]
    is_correct_PN: NDArray[np.bool_]
    finished_PN: NDArray[np.float64]
    started_P: NDArray[np.float64]
    n_complete_P: NDArray[np.int64]
    n_correct_P: NDArray[np.int64]

    def complete_rows(self) -> list[list[Sample]]:
        """The samples of each problem that completed, by branch: what `accuracy_at_k` draws from."""
        return [[sample for sample in row if sample.is_complete] for row in self.rows]


def arranged(samples: Iterable[Sample], problems: Sequence[str] | None = None) -> SampleTable:
    """The samples as arrays, in the order of `problems` (ids; None = in order of first appearance).

    Give `problems` where one may have no sample at all: it counts, with none completed. Raises UserError for no problem, a
    sample of a problem that is not named, the same branch twice, and seconds that are no numbers or run backwards.
    """
    rows: dict[str, dict[int, Sample]] = {name: {} for name in problems or ()}
    for sample in samples:
        if sample.problem not in rows and problems is not None:
            raise UserError(f"a sample is of the problem `{sample.problem}`, which is not named", fix="name all the problems")
        row = rows.setdefault(sample.problem, {})
        if sample.branch in row:
            raise UserError(
                f"problem `{sample.problem}` has branch {sample.branch} twice",
                fix="count branches on over all requests of a problem",
            )
        if not (math.isfinite(sample.started) and sample.started <= sample.finished < math.inf):
            raise UserError(
                f"a sample ran from second {sample.started} to {sample.finished}", where=f"problem `{sample.problem}`"
            )
        row[sample.branch] = sample
    if not rows:
        raise UserError("there is no problem, so nothing to score", fix="sample at least one problem")
    ordered = tuple(tuple(row[branch] for branch in sorted(row)) for row in rows.values())
    is_correct_PN = np.zeros((len(rows), max(map(len, ordered))), dtype=bool)
    finished_PN = np.full(is_correct_PN.shape, np.inf)
    for p, row_samples in enumerate(ordered):
        for n, sample in enumerate(row_samples):
            if sample.is_complete:
                is_correct_PN[p, n], finished_PN[p, n] = sample.is_correct, sample.finished
    started_P = np.array([min((sample.started for sample in row), default=math.inf) for row in ordered])
    n_complete_P, n_correct_P = np.isfinite(finished_PN).sum(axis=1), is_correct_PN.sum(axis=1)
    return SampleTable(tuple(rows), ordered, is_correct_PN, finished_PN, started_P, n_complete_P, n_correct_P)
