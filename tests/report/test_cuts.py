"""Comparisons found in a predicate: DuckDB's reading of it, and where the line stands."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilth.report.cuts import Cut, cuts_in
from tilth.report.measures import Measure, choose_range, line_position

COLUMNS = ("a", "b", "Quality")


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("a > 0.5", ["a > 0.5"]),
        ("0.5 < a", ["a > 0.5"]),
        ("demo.a >= 1e3 and b < -2.25", ["a >= 1000", "b < -2.25"]),
        ("a between 3 and 7.5", ["a >= 3", "a <= 7.5"]),
        ("not (a > 1 or b <= 2)", ["a <= 1", "b > 2"]),
        ("not a between 3 and 7", ["a < 3", "a > 7"]),
        ("quality != 10 * 5 + length('abc')", ["Quality != 53"]),
        ("a > 1 and a > 1 -- a comment ends it", ["a > 1"]),
        ("a > '3'::int", ["a > 3"]),
        ("a > b and len(c) > 3 and c = 'x' and other < 5", []),
        ("a > (select max(b) from t)", []),
        ("a in (1, 2)", []),
        ("", []),
        ("a > ", []),
        ("a > 1) or (1 = 1", ["a > 1"]),
        ("true; drop table demo", []),
        ("a > null", []),
    ],
)
def test_comparisons_are_found_as_they_hold(connection: Any, where: str, expected: list[str]) -> None:
    assert [str(cut) for cut in cuts_in(connection, where, COLUMNS)] == expected


@given(value=st.floats(-1e9, 1e9, allow_subnormal=False), operator=st.sampled_from(["<", "<=", ">", ">="]))
@settings(max_examples=40, deadline=None)
def test_any_number_is_read_back(value: float, operator: str) -> None:
    import duckdb

    with duckdb.connect() as connection:
        (cut,) = cuts_in(connection, f"a {operator} {value!r}::double", COLUMNS)
    assert (cut.operator, cut.value) == (operator, pytest.approx(value, rel=1e-12))


@given(value=st.floats(-50, 50), operator=st.sampled_from(["<", "<=", ">", ">="]), x=st.integers(-60, 60))
@settings(max_examples=200, deadline=None)
def test_the_line_of_whole_numbers_divides_kept_from_dropped(value: float, operator: str, x: int) -> None:
    kept = {"<": x < value, "<=": x <= value, ">": x > value, ">=": x >= value}[operator]
    line = line_position(Cut("a", operator, value), whole=True)
    assert kept == ((x >= line) if operator in (">", ">=") else (x < line))


def _measure(low: float, high: float, minimum: float, maximum: float, whole: bool = False, cut: float | None = None) -> Measure:
    cuts = () if cut is None else (("clean", Cut("a", ">=", cut)),)
    return Measure("a", whole, 100, 0, minimum, low, (low + high) / 2, high, maximum, cuts)


def test_outliers_do_not_stretch_the_picture() -> None:
    bins = choose_range(_measure(0.0, 1.0, -1e9, 1e12))
    assert bins is not None
    assert bins.ends == (0.0, pytest.approx(1.0))


def test_a_near_cut_is_in_the_picture_and_a_far_one_is_not() -> None:
    near, far = choose_range(_measure(0, 1, -5, 900, cut=1.5)), choose_range(_measure(0, 1, -5, 900, cut=800))
    assert near is not None
    assert far is not None
    assert near.holds(1.5)
    assert not far.holds(800)


def test_heavy_tails_are_drawn_in_logarithms() -> None:
    bins = choose_range(_measure(3, 4_000, 1, 1e6, whole=True, cut=20_000))
    assert bins is not None
    assert bins.log
    assert bins.holds(20_000)
    assert bins.ticks == [10.0, 100.0, 1000.0, 10000.0]


def test_bins_of_whole_numbers_are_whole() -> None:
    bins = choose_range(_measure(4, 29, 0, 90, whole=True))
    assert bins is not None
    assert (bins.start, bins.width, bins.n_bins) == (4, 1, 26)
    assert bins.last < 30


def test_equal_values_have_no_picture() -> None:
    assert choose_range(_measure(2, 2, 2, 2)) is None
