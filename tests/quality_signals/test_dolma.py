"""dolma's numbers where they differ from Gopher's; all of them are compared with dolma's own in test_rule_decisions.py."""

from __future__ import annotations

import statistics
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilth.quality_signals.families.dolma import dolma
from tilth.quality_signals.fused.text_batch import TextBatch


def scores(text: str) -> dict[str, Any]:
    return {name: array[0].as_py() for name, array in dolma(TextBatch(pa.array([text], pa.large_string()))).columns.items()}


def test_repeated_lines_count_with_their_first_and_empty_ones_too() -> None:
    found = scores("* a line\n\n* a line\n\n…")
    assert found["dolma_dupe_line_frac"] == 4 / 5
    assert found["dolma_dupe_line_char_frac"] == 16 / 13  # of the words' characters, without blanks
    assert found["dolma_bullet_line_frac"] == 2 / 5
    assert found["dolma_ellipsis_line_frac"] == 1 / 5


@pytest.mark.parametrize(("text", "times"), [("a " * 150, 150), ("a b c " * 40, 40), ("x a b a b y", 0), ("a a a b", 3), ("", 0)])
def test_repetitions_in_a_row(text: str, times: int) -> None:
    assert scores(text)["dolma_max_repetitions"] == times


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text("ab#…é中", min_size=1, max_size=9), max_size=30))
def test_words_are_those_between_white_space(words: list[str]) -> None:
    found = scores("\u2003".join(words))
    assert found["dolma_n_words"] == len(words)
    assert found["dolma_median_word_length"] == (statistics.median(map(len, words)) if words else 0)
    assert found["dolma_symbol_word_frac"] == sum("#" in word or "…" in word for word in words) / max(len(words), 1)
