"""Coverage without bias (pass@k, pass^k), and intervals over problems."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tilth.errors import UserError

# draws x problems held at once while resampling
_DRAWN_AT_ONCE = 1 << 22


@dataclass(frozen=True)
class Interval:
    """A mean over problems, and where it would lie with other problems of the same kind."""

    mean: float
    low: float
    high: float


def pass_at_k(n: ArrayLike, c: ArrayLike, k: int) -> NDArray[np.float64]:
    """(P,) chances that at least one of k samples is right, from c right ones of n for each problem: 1 - C(n-c, k) / C(n, k).

    Without bias for n >= k (Chen et al. 2021, "Evaluating Large Language Models Trained on Code"), unlike 1 - (1 - c/n)^k, and
    steadier than looking at the first k alone; n >= 2 k is advisable. n may be one number for all. The average over problems
    is the benchmark's pass@k. Raises UserError for k < 1, k > n, and c outside 0..n.
    """
    n_P, c_P = _checked(n, c, k)
    # sum over i = k+1 .. m of log(1 - k/i), by m: C(n-c, k) / C(n, k) is exp of the difference from n-c to n
    i = np.arange(k + 1, n_P.max(initial=k) + 1)
    log_missed = np.concatenate([np.zeros(k + 1), np.cumsum(np.log1p(-k / i))])
    n_wrong_P = n_P - c_P
    missed_P = log_missed[n_P] - log_missed[n_wrong_P]
    return np.where(n_wrong_P < k, 1.0, 0.0 - np.expm1(missed_P))


def pass_power_k(n: ArrayLike, c: ArrayLike, k: int) -> NDArray[np.float64]:
    """(P,) chances that all of k samples are right, C(c, k) / C(n, k): what one can rely on.

    That is pass^k of Yao et al. 2024, "tau-bench". Without bias for n >= k. Raises UserError as `pass_at_k` does.
    """
    n_P, c_P = _checked(n, c, k)
    all_right_P = np.ones(len(n_P))
    for j in range(k):
        all_right_P *= np.maximum(c_P - j, 0) / (n_P - j)
    return all_right_P


def bootstrap(values_P: ArrayLike, n_draws: int = 2000, seed: int = 0, level: float = 0.95) -> Interval:
    """The mean over problems and its percentile interval, from n_draws resamplings of whole problems with replacement.

    It says how much the choice of problems matters, not how much the samples or the training seed do. Values that are all
    the same give an interval without width: no problem of the other kind was seen, which is not to say that there is none.
    To compare two models on the same problems, take the bootstrap of the differences: it is narrower than two intervals are.
    Raises UserError for no problem, values that are not finite, n_draws < 1 and a level outside 0..1.
    """
    mean_T, low_T, high_T = bootstrap_columns(np.asarray(values_P, dtype=np.float64)[:, None], n_draws, seed, level)
    return Interval(float(mean_T[0]), float(low_T[0]), float(high_T[0]))


def bootstrap_columns(
    values_PT: ArrayLike, n_draws: int = 2000, seed: int = 0, level: float = 0.95
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """(T,) means, lows and highs as `bootstrap` gives of each column; all columns see the same problems in each draw."""
    values_PT = np.asarray(values_PT, dtype=np.float64)
    n_problems = len(values_PT)
    if values_PT.ndim != 2 or not n_problems or not np.isfinite(values_PT).all():
        raise UserError(f"no interval over values of shape {values_PT.shape}", fix="give one finite value for each problem")
    if n_draws < 1 or not 0 < level < 1:
        raise UserError(
            f"no interval at level {level} from {n_draws} draws", fix="use a level such as 0.95 and 1000 draws or more"
        )
    rng = np.random.default_rng(seed)
    means = []
    for start in range(0, n_draws, at_once := max(1, _DRAWN_AT_ONCE // n_problems)):
        size = min(at_once, n_draws - start)
        drawn_DP = rng.integers(n_problems, size=(size, n_problems)) + n_problems * np.arange(size)[:, None]
        times_DP = np.bincount(drawn_DP.ravel(), minlength=size * n_problems).reshape(size, n_problems)
        means.append(times_DP @ values_PT / n_problems)
    low_T, high_T = np.quantile(np.concatenate(means), [(1 - level) / 2, (1 + level) / 2], axis=0)
    return values_PT.mean(axis=0), low_T, high_T


def _checked(n: ArrayLike, c: ArrayLike, k: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    n_P, c_P = np.broadcast_arrays(np.atleast_1d(np.asarray(n)), np.atleast_1d(np.asarray(c)))
    if not (np.issubdtype(n_P.dtype, np.integer) and np.issubdtype(c_P.dtype, np.integer)) or n_P.ndim != 1:
        raise UserError("n and c are no whole numbers, one for each problem", fix="count the samples, and those that are right")
    if k < 1 or (n_P < k).any():
        least = n_P.min(initial=k)
        raise UserError(f"k is {k}, and a problem has {least} samples", fix="draw at least k samples of each problem, and k >= 1")
    if (c_P < 0).any() or (c_P > n_P).any():
        raise UserError("more samples are right than there are", fix="give n, then c")
    return n_P.astype(np.int64), c_P.astype(np.int64)
