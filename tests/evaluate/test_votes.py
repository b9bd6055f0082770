"""Votes against brute force: who wins, when it is decided, and how often the winner is right."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from fractions import Fraction
from functools import partial
from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilth.errors import UserError
from tilth.evaluate.samples import Sample
from tilth.evaluate.votes import accuracy_at_k, best_of, is_decided, majority, weighted_majority


def drawn(*answers: str | None, scores: list[float] | None = None, right: str = "1") -> list[Sample]:
    """Samples with these answers, of one problem."""
    return [
        Sample(
            problem="p", branch=i, text="", answer=answer, is_correct=answer == right, n_tokens=1, finish_reason="stop",
            started=0.0, finished=1.0, score=scores[i] if scores else None,
        )
        for i, answer in enumerate(answers)
    ]  # fmt: skip


answers = st.lists(st.sampled_from(["1", "2", "3", "4", None]), max_size=9)


@given(answers)
def test_the_majority_is_the_most_frequent_and_the_first_of_equals(given_answers: list[str | None]) -> None:
    there = [answer for answer in given_answers if answer is not None]
    wanted = max(there, key=lambda answer: (there.count(answer), -there.index(answer)), default=None)
    assert majority(drawn(*given_answers)) == wanted


@given(st.lists(st.tuples(st.sampled_from(["1", "2", "3", None]), st.integers(0, 8)), max_size=9))
def test_votes_with_scores_equal_brute_force(pairs: list[tuple[str | None, int]]) -> None:
    samples = drawn(*[answer for answer, _ in pairs], scores=[score / 8 for _, score in pairs])
    there = [(answer, Fraction(score, 8)) for answer, score in pairs if answer is not None]
    first = [answer for answer, _ in there]
    total = {answer: sum(score for other, score in there if other == answer) for answer in first}
    by_sum = max(first, key=lambda answer: (total[answer], -first.index(answer)), default=None)
    by_count = max(first, key=lambda answer: (first.count(answer), total[answer], -first.index(answer)), default=None)
    assert weighted_majority(samples) == by_sum
    assert majority(samples, ties="score") == by_count
    best = max(range(len(there)), key=lambda i: (there[i][1], -i), default=None)
    assert best_of(samples) == (None if best is None else there[best][0])


def test_small_cases() -> None:
    assert majority(drawn("2", "1", "1", "2")) == "2"
    assert majority(drawn("2", "1", "1", "2", scores=[0.1, 0.2, 0.2, 0.1]), ties="score") == "1"
    assert majority(drawn(None, None, None, "3")) == "3"
    assert weighted_majority(drawn("1", "2", "1", scores=[0.3, 0.5, 0.3])) == "1"
    assert best_of(drawn("1", "2", None, scores=[0.3, 0.5, 0.9])) == "2"
    assert majority([]) is weighted_majority([]) is best_of([]) is None
    assert majority(drawn(None)) is best_of(drawn(None)) is None


def test_a_sum_of_scores_does_not_depend_on_the_order() -> None:
    scores = [0.1, 0.2, 0.3, 0.6]
    for order in permutations(range(4)):
        samples = drawn(*[("1", "1", "1", "2")[i] for i in order], scores=[scores[i] for i in order])
        exact = math.fsum(scores[:3])
        wanted = {True: "1", False: "2"}[exact > 0.6] if exact != 0.6 else next(sample.answer for sample in samples)
        assert weighted_majority(samples) == wanted


@pytest.mark.parametrize("scores", [None, [0.5, float("nan")], [0.5, -0.1]])
def test_scores_that_are_none_are_refused(scores: list[float] | None) -> None:
    with pytest.raises(UserError, match="score of a sample"):
        weighted_majority(drawn("1", "2", scores=scores))
    with pytest.raises(UserError, match="score of a sample"):
        majority(drawn("1", "2", scores=scores), ties="score")
    if scores != [0.5, -0.1]:
        with pytest.raises(UserError, match="score of a sample"):
            best_of(drawn("1", "2", scores=scores))


@pytest.mark.parametrize(
    ("counts", "n_left", "wanted"),
    [
        ({"a": 3, "b": 1}, 1, True),
        ({"a": 3, "b": 1}, 2, False),
        ({"a": 3}, 2, True),
        ({"a": 3}, 3, False),
        ({"a": 2, "b": 2}, 0, False),
        ({"a": 1}, 0, True),
        ({}, 0, False),
        ({}, 5, False),
        ({"a": 5, "b": 4, "c": 4}, 1, False),
        ({"a": 6, "b": 4, "c": 4}, 1, True),
    ],
)
def test_a_lead_larger_than_what_is_left_decides(counts: dict[str, int], n_left: int, wanted: bool) -> None:
    assert is_decided(counts, n_left) is wanted


@given(st.lists(st.sampled_from("abc"), max_size=7), st.integers(0, 3))
def test_a_decided_vote_stays_whatever_comes_and_in_whatever_order(seen: list[str], n_left: int) -> None:
    decided = is_decided(Counter(seen), n_left)
    leader = Counter(seen).most_common(1)[0][0] if seen else None
    is_kept = True
    for rest in product(["a", "b", "c", "d", None], repeat=n_left):
        everything = [*seen, *rest]
        # the branches that are still out may come before those that are there
        for order in (everything, [*rest, *seen]):
            scores = [1.0 if answer != leader else 0.0 for answer in order]
            samples = drawn(*order, scores=scores)
            is_kept &= majority(samples) == leader and majority(samples, ties="score") == leader
    assert not decided or is_kept
    # and it is not cautious without need: where it says no, some votes would change or tie the result
    if not decided and seen:
        counts = Counter(seen)
        rivals = [counts[answer] for answer in "abcd" if answer != leader]
        assert max(rivals) + n_left >= counts[leader]


def test_negative_counts_are_refused() -> None:
    with pytest.raises(UserError):
        is_decided({"a": 2}, -1)
    with pytest.raises(UserError):
        is_decided({"a": -2}, 1)


CHOICES = {
    "majority": majority,
    "ties by score": partial(majority, ties="score"),
    "weighted": weighted_majority,
    "best of n": best_of,
}


@pytest.mark.parametrize("name", CHOICES)
@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_accuracy_with_k_samples_is_that_of_all_orders_of_all_subsets(name: str, k: int) -> None:
    choose = CHOICES[name]
    problems = [
        drawn("1", "2", "2", "1", "3", scores=[0.9, 0.2, 0.3, 0.1, 0.4]),
        drawn("2", "1", None, "1", "2", "3", scores=[0.9, 0.8, 0.7, 0.6, 0.2, 0.5]),
        drawn("1", None, None, None, None, scores=[0.1] * 5),
        drawn("2", "2", "3", None, "2", scores=[0.5] * 5),
        drawn("1", "1", "1", "1", "1", scores=[0.5] * 5),
    ]
    exact = [
        np.mean([choose(list(order)) == "1" for order in permutations(samples, k)]) for samples in problems
    ]  # ties depend on the order
    found_P = accuracy_at_k(problems, k, choose, n_draws=4000, seed=5)
    np.testing.assert_allclose(found_P, exact, atol=0.03)
    assert found_P[3] == 0.0
    assert found_P[4] == 1.0


def test_a_problem_draws_by_itself_and_repeatably() -> None:
    samples = drawn("1", "2", "2", "1", "3")
    both = accuracy_at_k([samples, samples], 3, majority, n_draws=50, seed=2)
    assert accuracy_at_k([samples], 3, majority, n_draws=50, seed=2)[0] == both[0]
    assert accuracy_at_k([samples, drawn("1", "1", "1")], 3, majority, n_draws=50, seed=2)[0] == both[0]
    others = [replace(sample, problem="q") for sample in samples]
    in_turn = [accuracy_at_k(pair, 3, majority, n_draws=50, seed=2).tolist() for pair in ([samples, others], [others, samples])]
    assert in_turn[0] == in_turn[1][::-1]  # a problem that is left out changes no other's figure
    assert in_turn[0][0] == both[0] != in_turn[0][1]
    different = {accuracy_at_k([samples], 3, majority, n_draws=50, seed=seed)[0] for seed in range(5)}
    assert len(different) > 1


def test_fewer_samples_than_k_are_refused() -> None:
    for k, n_draws in ((3, 10), (0, 10), (1, 0)):
        with pytest.raises(UserError):
            accuracy_at_k([drawn("1", "2"), drawn("1", "2", "3")], k, majority, n_draws=n_draws)
