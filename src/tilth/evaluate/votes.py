"""One answer out of many samples: majority, weighted majority, best-of-n; and how often that is right with k samples."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tilth.errors import UserError
from tilth.evaluate.samples import Sample

Choose = Callable[[Sequence[Sample]], str | None]
"""Samples in the order in which they came -> the canonical answer that is chosen, None where no sample has one."""


def majority(samples: Sequence[Sample], ties: Literal["first", "score"] = "first") -> str | None:
    """The answer that most samples give (self-consistency, Wang et al. 2022); samples without an answer do not vote.

    Of answers with equally many votes the one that was given first wins, or, with ties "score", the one with the highest sum
    of scores (then the first). Raises UserError where a score is needed and there is none.
    """
    counts = Counter(sample.answer for sample in samples if sample.answer is not None)
    most = max(counts.values(), default=0)
    tied = {answer for answer, count in counts.items() if count == most}
    if ties == "score" and len(tied) > 1:
        return weighted_majority([sample for sample in samples if sample.answer in tied])
    return next((answer for answer in counts if answer in tied), None)


def weighted_majority(samples: Sequence[Sample]) -> str | None:
    """The answer whose samples' scores sum to most, the first of equals: argmax over a of the sum of r_i [a_i = a].

    Samples without an answer do not vote. The sum does not depend on the order. Raises UserError for an answer without a score,
    and for a score that is negative or no number: votes against an answer would make one alone beat two.
    """
    scores: dict[str, list[float]] = {}
    for sample in samples:
        if sample.answer is not None:
            scores.setdefault(sample.answer, []).append(_score(sample, least=0.0))
    sums = {answer: math.fsum(of_answer) for answer, of_answer in scores.items()}
    return max(sums, key=sums.__getitem__, default=None)


def best_of(samples: Sequence[Sample]) -> str | None:
    """The answer of the sample with the highest score, the first of equals: best-of-n.

    Samples without an answer are passed over, since they are known to be useless before anything is known of the right answer.
    Raises UserError for an answer without a score, and a score that is no number.
    """
    candidates = [sample for sample in samples if sample.answer is not None]
    best = max(candidates, key=_score, default=None)
    return best.answer if best else None


def is_decided(counts: Mapping[str, int], n_left: int) -> bool:
    """Whether the leader of a majority vote wins whatever the n_left votes that are still out will be, however ties are broken.

    A lead of exactly n_left is not decided: the rest may draw level, and then the order or the scores say who wins, which are
    not known yet. n_left counts samples that may yet give an answer, also those not begun. Raises UserError for negative counts.
    """
    if n_left < 0 or any(count < 0 for count in counts.values()):
        raise UserError(f"{n_left} votes are left, and the counts are {dict(counts)}", fix="count votes from 0 on")
    leader, second = sorted([0, 0, *counts.values()])[:-3:-1]
    return leader > second + n_left


def accuracy_at_k(
    samples_by_problem: Sequence[Sequence[Sample]], k: int, choose: Choose, n_draws: int = 200, seed: int = 0
) -> NDArray[np.float64]:
    """(P,) shares of n_draws in which `choose` is right with k samples of a problem, drawn without replacement, in random order.

    A prefix of the samples would be one draw, and the same at every k. Each problem draws by itself, so that its figure does
    not depend on which others are there. With n near k the draws are nearly the same samples: n >= 2 k is advisable.
    Raises UserError for k < 1, n_draws < 1, and a problem with fewer than k samples.
    """
    fewest = min(map(len, samples_by_problem), default=k)
    if k < 1 or fewest < k or n_draws < 1:
        raise UserError(
            f"k is {k}, with {n_draws} draws, and a problem has {fewest} samples", fix="draw at least k samples of each problem"
        )
    accuracy_P = np.zeros(len(samples_by_problem))
    for p, samples in enumerate(samples_by_problem):
        right = {sample.answer for sample in samples if sample.is_correct}
        if not right or len(right) == len({sample.answer for sample in samples}):
            accuracy_P[p] = 1.0 if right else 0.0
            continue
        rng = np.random.default_rng([seed, *samples[0].problem.encode()])
        drawn_DK = rng.permuted(np.tile(np.arange(len(samples)), (n_draws, 1)), axis=1)[:, :k]
        n_right = sum(choose([samples[i] for i in drawn_K]) in right for drawn_K in drawn_DK.tolist())
        accuracy_P[p] = n_right / n_draws
    return accuracy_P


def _score(sample: Sample, least: float = -math.inf) -> float:
    if sample.score is None or not sample.score >= least:
        raise UserError(
            f"the score of a sample is {sample.score}",
            where=f"problem `{sample.problem}`, branch {sample.branch}",
            fix="score the samples with a verifier, whose scores are chances from 0 to 1, or vote without scores",
        )
    return sample.score
