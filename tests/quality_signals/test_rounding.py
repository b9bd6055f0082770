"""`round_half_even` is Python's `round(x, 8)`, to the last bit."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tilth.quality_signals.fused.rounding import round_half_even

# Decimals that end in 5 at the ninth place, and their neighbours: where the binary value decides.
_NEAR_TIES = st.builds(lambda k, steps: (k + 0.5) / 1e8 * (1 + steps * 2.0**-53), st.integers(0, 10**15), st.integers(-3, 3))
_TIES = st.builds(lambda k, power: k / 2**power, st.integers(0, 2**40), st.integers(0, 40))  # many are exact ties
_SHARES = st.builds(lambda part, whole: part / whole, st.integers(0, 10**9), st.integers(1, 10**9))
_ANY = st.floats(-1e300, 1e300, allow_nan=False)


@settings(max_examples=1000, deadline=None)
@given(st.lists(_NEAR_TIES | _TIES | _SHARES | _ANY, min_size=1, max_size=20))
def test_equal_to_python(values: list[float]) -> None:
    found = round_half_even(np.array(values, float))
    assert [value.hex() for value in found.tolist()] == [round(value, 8).hex() for value in values]


def test_exact_ties_go_to_the_even_neighbour() -> None:
    values = [k / 2**9 for k in range(1, 2**9, 2)]  # nine binary places: the ninth decimal is a 5
    assert round_half_even(np.array(values)).tolist() == [round(value, 8) for value in values]
    assert round(1 / 2**9, 8) == 0.00195312  # 0.001953125
    assert round(3 / 2**9, 8) == 0.00585938  # 0.005859375


def test_shares_of_small_numbers() -> None:
    part, whole = np.meshgrid(np.arange(0, 700), np.arange(1, 700))
    values = (part / whole).ravel()
    assert round_half_even(values).tolist() == [round(value, 8) for value in values.tolist()]


def test_nothing_is_rounded_in_nothing() -> None:
    assert round_half_even(np.zeros(0)).tolist() == []
