"""Whole documents that come nearest to a number of tokens, against every choice there is."""

from __future__ import annotations

from itertools import combinations

from hypothesis import example, given, settings
from hypothesis import strategies as st

from tilth.catalog.nearest import MAX_UNITS, nearest

SIZES = st.lists(st.integers(1, 60), max_size=8)


def every_sum(sizes: list[int]) -> set[int]:
    return {sum(chosen) for n in range(len(sizes) + 1) for chosen in combinations(sizes, n)}


@settings(max_examples=300, deadline=None)
@example(sizes=[59], target=29.75, may_exceed=True)
@given(sizes=SIZES, target=st.floats(0, 200), may_exceed=st.booleans())
def test_no_other_choice_is_nearer(sizes: list[int], target: float, may_exceed: bool) -> None:
    places = nearest(sizes, target, may_exceed)
    assert places == sorted(set(places))
    found = sum(sizes[place] for place in places)
    allowed = [one for one in every_sum(sizes) if may_exceed or one <= target]
    assert found in allowed
    assert abs(found - target) == min(abs(one - target) for one in allowed)


def test_of_choices_with_one_sum_the_early_documents_are_taken() -> None:
    assert nearest([5] * 10, 20, may_exceed=True) == [0, 1, 2, 3]
    assert nearest([5, 2, 3, 5], 10, may_exceed=True) == [0, 1, 2]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 10**9), min_size=1, max_size=30), st.integers(10 * MAX_UNITS, 10**10))
def test_large_targets_are_met_to_a_millionth_or_not_exceeded(sizes: list[int], target: int) -> None:
    found = sum(sizes[place] for place in nearest(sizes, target, may_exceed=False))
    assert found <= target
    in_order = 0  # what taking them in order gives, without looking further
    for size in sizes:
        in_order += size if in_order + size <= target else 0
    assert found >= in_order - len(sizes) * target / MAX_UNITS
