"""Layer patterns: what they mean, and where a bad one is wrong."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilth.errors import RecipeError
from tilth.models.pattern import MAX_LAYERS, parse_pattern


@pytest.mark.parametrize(
    ("text", "letters"),
    [
        ("M", "M"),
        ("MMMA*2", "MMMAMMMA"),
        ("MMMMAMMM*3", "MMMMAMMM" * 3),
        ("M+MMA*2+A", "MMMAMMAA"),
        ("A*1", "A"),
    ],
)
def test_pattern_reads_as_written(text: str, letters: str) -> None:
    assert parse_pattern(text) == letters


@given(st.lists(st.tuples(st.text("MA", min_size=1, max_size=6), st.integers(1, 5)), min_size=1, max_size=4))
@settings(max_examples=50, deadline=None)
def test_groups_concatenate(groups: list[tuple[str, int]]) -> None:
    text = "+".join(f"{letters}*{times}" for letters, times in groups)
    assert parse_pattern(text) == "".join(letters * times for letters, times in groups)


@pytest.mark.parametrize(
    ("text", "character"),
    [
        ("", 1),
        ("MMXA", 3),
        ("M MA", 2),
        ("m", 1),
        ("MA*", 4),
        ("MA*0", 4),
        ("MA*-1", 4),
        ("MA*2*2", 4),
        ("MA*\u0663", 4),
        ("*2", 1),
        ("M+", 3),
        ("M++A", 3),
        ("MM+AQ*2", 5),
    ],
)
def test_bad_pattern_says_where(text: str, character: int) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_pattern(text)
    assert caught.value.where == f"layers, character {character}"
    assert "mamba2" in (caught.value.fix or "")


def test_too_many_layers_are_refused_without_building_the_string() -> None:
    with pytest.raises(RecipeError, match=str(MAX_LAYERS)):
        parse_pattern("MA*99999999999999999999")
