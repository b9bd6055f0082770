"""Bands and rows follow from threshold and recall, and the explanation says the truth about them."""

from __future__ import annotations

import pytest

from tilth.dedup.minhash.parameters import MinHashParameters
from tilth.errors import RecipeError


def test_the_default_is_32_bands_of_6() -> None:
    parameters = MinHashParameters()
    assert (parameters.n_bands, parameters.n_rows, parameters.n_permutations) == (32, 6, 192)
    assert parameters.candidate_probability(0.7) == pytest.approx(0.9818, abs=1e-4)
    assert parameters.candidate_probability(0.8) > 0.9999
    assert "32 bands of 6 rows (192 permutations)" in parameters.explain()
    assert "0.9818" in parameters.explain()


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.8, 0.9, 0.99, 1.0])
@pytest.mark.parametrize("recall", [0.5, 0.9, 0.999])
@pytest.mark.parametrize("budget", [64, 256, 1000])
def test_recall_is_reached_within_the_budget(threshold: float, recall: float, budget: int) -> None:
    parameters = MinHashParameters(threshold=threshold, recall=recall, max_permutations=budget)
    assert parameters.n_permutations <= budget
    assert parameters.candidate_probability(threshold) >= recall - 1e-12
    one_band_less = 1 - (1 - threshold**parameters.n_rows) ** (parameters.n_bands - 1)
    assert one_band_less < recall


@pytest.mark.parametrize(
    "wrong",
    [
        {"threshold": 0.0},
        {"threshold": 1.1},
        {"recall": 1.0},
        {"n": 0},
        {"max_bucket": 1},
        {"n_representatives": 0},
        {"unit": "bytes"},
        {"bands": (0, 3)},
    ],
)
def test_impossible_values_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(RecipeError):
        MinHashParameters(**wrong)  # type: ignore[arg-type]


def test_a_budget_that_is_too_small_is_refused_with_the_needed_one() -> None:
    with pytest.raises(RecipeError) as error:
        MinHashParameters(threshold=0.1, recall=0.99, max_permutations=16)
    assert "44 permutations" in str(error.value)
    MinHashParameters(threshold=0.1, recall=0.99, max_permutations=44)


def test_bands_can_be_given() -> None:
    parameters = MinHashParameters(bands=(14, 8))
    assert (parameters.n_bands, parameters.n_rows, parameters.n_permutations) == (14, 8, 112)
    assert parameters.candidate_probability(0.8) == pytest.approx(0.9238, abs=1e-3)
    assert "as given" in parameters.explain()
    assert parameters.label() != MinHashParameters(bands=(8, 14)).label() != MinHashParameters(unit="characters").label()
