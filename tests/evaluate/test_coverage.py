"""pass@k, pass^k and intervals against what they mean."""

from __future__ import annotations

from itertools import combinations
from math import comb

import numpy as np
import pytest

from tilth.errors import UserError
from tilth.evaluate.coverage import bootstrap, bootstrap_columns, pass_at_k, pass_power_k


@pytest.mark.parametrize("n", range(1, 9))
def test_both_equal_the_average_over_all_subsets(n: int) -> None:
    for c in range(n + 1):
        is_right = [i < c for i in range(n)]
        for k in range(1, n + 1):
            subsets = list(combinations(is_right, k))
            assert pass_at_k(n, c, k) == pytest.approx(sum(map(any, subsets)) / len(subsets), abs=1e-14)
            assert pass_power_k(n, c, k) == pytest.approx(sum(map(all, subsets)) / len(subsets), abs=1e-14)


def test_many_problems_at_once_equal_each_alone_and_exact_binomials() -> None:
    rng = np.random.default_rng(7)
    n_P = rng.integers(64, 1001, size=500)
    c_P = (n_P * rng.random(500) ** 3).astype(int)
    for k in (1, 2, 17, 64):
        exact = [1 - comb(n - c, k) / comb(n, k) for n, c in zip(n_P.tolist(), c_P.tolist())]
        exact_power = [comb(c, k) / comb(n, k) for n, c in zip(n_P.tolist(), c_P.tolist())]
        np.testing.assert_allclose(pass_at_k(n_P, c_P, k), exact, rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(pass_power_k(n_P, c_P, k), exact_power, rtol=1e-12, atol=1e-300)
        np.testing.assert_array_equal(pass_at_k(n_P, c_P, k), [pass_at_k(n, c, k)[0] for n, c in zip(n_P, c_P)])
    np.testing.assert_allclose(pass_at_k(n_P, c_P, 1), c_P / n_P, rtol=1e-12)
    np.testing.assert_allclose(pass_power_k(n_P, c_P, 1), c_P / n_P, rtol=1e-12)


def test_the_ends_are_exact() -> None:
    assert pass_at_k([8, 8, 8], [0, 8, 5], 4).tolist() == [0.0, 1.0, 1.0]
    assert pass_power_k([8, 8, 8], [0, 8, 3], 4).tolist() == [0.0, 1.0, 0.0]
    assert not np.signbit(pass_at_k(8, 0, 4)).any()
    assert pass_at_k(10**6, 1, 10**5)[0] == pytest.approx(0.1, rel=1e-10)


def test_the_estimate_has_no_bias_where_the_plug_in_has() -> None:
    rng = np.random.default_rng(3)
    p, n, k = 0.1, 8, 4
    c_P = rng.binomial(n, p, size=200_000)
    truth = 1 - (1 - p) ** k
    assert pass_at_k(n, c_P, k).mean() == pytest.approx(truth, abs=0.003)
    assert abs((1 - (1 - c_P / n) ** k).mean() - truth) > 0.02
    assert pass_power_k(n, rng.binomial(n, 0.7, size=200_000), k).mean() == pytest.approx(0.7**k, abs=0.003)


@pytest.mark.parametrize(
    ("n", "c", "k"), [(4, 2, 5), (4, 2, 0), (4, 5, 2), (4, -1, 2), ([4, 3], [1, 1], 4), (4.0, 2, 1), ([[4]], [[2]], 1)]
)
def test_counts_that_cannot_be_are_refused(n: object, c: object, k: int) -> None:
    for estimate in (pass_at_k, pass_power_k):
        with pytest.raises(UserError):
            estimate(n, c, k)  # type: ignore[arg-type]


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    """95 % intervals over 120 problems of which each has a chance of its own; the percentile interval is a little narrow."""
    rng = np.random.default_rng(11)
    n_trials, n_covered, n_covered_at_80 = 600, 0, 0
    # 1 - E[(1 - p)^4] for p ~ Beta(1/2, 3/2), by rising factorials
    truth = 1 - (1.5 * 2.5 * 3.5 * 4.5) / (2 * 3 * 4 * 5)
    for trial in range(n_trials):
        values_P = pass_at_k(16, rng.binomial(16, rng.beta(0.5, 1.5, size=120)), 4)
        found = bootstrap(values_P, n_draws=400, seed=trial)
        n_covered += found.low <= truth <= found.high
        found = bootstrap(values_P, n_draws=400, seed=trial, level=0.8)
        n_covered_at_80 += found.low <= truth <= found.high
        assert found.mean == pytest.approx(values_P.mean())
    assert 0.92 < n_covered / n_trials < 0.98
    assert 0.75 < n_covered_at_80 / n_trials < 0.85


def test_an_interval_is_that_of_the_central_limit() -> None:
    values_P = np.random.default_rng(5).random(2000)
    found = bootstrap(values_P, n_draws=4000, seed=1)
    half = 1.96 * values_P.std() / len(values_P) ** 0.5
    assert found.low == pytest.approx(values_P.mean() - half, abs=half / 10)
    assert found.high == pytest.approx(values_P.mean() + half, abs=half / 10)
    assert bootstrap(values_P, 300, seed=1) == bootstrap(values_P, 300, seed=1)
    assert bootstrap(values_P, 300, seed=1) != bootstrap(values_P, 300, seed=2)


def test_columns_are_drawn_together() -> None:
    values_P = np.random.default_rng(5).random(50)
    mean_T, low_T, high_T = bootstrap_columns(np.stack([values_P, values_P + 1, -values_P], axis=1), 500, seed=3)
    one = bootstrap(values_P, 500, seed=3)
    np.testing.assert_allclose([mean_T[0], low_T[0], high_T[0]], [one.mean, one.low, one.high])
    np.testing.assert_allclose([mean_T[1], low_T[1], high_T[1]], np.array([one.mean, one.low, one.high]) + 1)
    np.testing.assert_allclose([low_T[2], high_T[2]], [-one.high, -one.low])


def test_draws_in_parts_are_all_there(monkeypatch: pytest.MonkeyPatch) -> None:
    values_P = np.random.default_rng(5).random(50)
    whole = bootstrap(values_P, 501, seed=3)
    monkeypatch.setattr("tilth.evaluate.coverage._DRAWN_AT_ONCE", 500)
    assert bootstrap(values_P, 501, seed=3) == whole


@pytest.mark.parametrize(
    ("values", "settings"), [([], {}), ([1.0, float("nan")], {}), ([1.0], {"n_draws": 0}), ([1.0], {"level": 1.0})]
)
def test_no_interval_is_drawn_of_nothing(values: list[float], settings: dict) -> None:
    with pytest.raises(UserError):
        bootstrap(values, **settings)
