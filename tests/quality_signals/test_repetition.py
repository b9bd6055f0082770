"""Repeated n-grams: ties, overlaps, nothing to repeat. That they equal plain counting is in test_rpv2_definitions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Score = Callable[..., dict[str, Any]]


def test_ties_go_to_the_first_seen(score: Score) -> None:
    assert score("repetition", "long words x long words a b y a b")["rps_doc_frac_chars_top_2gram"] == round(18 / 24, 8)


def test_overlaps_may_exceed_one(score: Score) -> None:
    assert score("repetition", "a a a a")["rps_doc_frac_chars_top_2gram"] == 1.5


def test_no_words_score_zero(score: Score) -> None:
    found = score("repetition", "")
    assert found.pop("repetition_undefined") is None
    assert {value for name, value in found.items() if name.startswith("rps_")} == {0.0}
