"""Repeated n-grams against plain counting."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tilth.quality_signals.repetition import DUPE_SIZES, TOP_SIZES, repetition
from tilth.quality_signals.text_view import TextView

Score = Callable[..., dict[str, Any]]


def _plain(words: list[str]) -> dict[str, float]:
    found, total = {}, sum(map(len, words))
    for n in (*TOP_SIZES, *DUPE_SIZES):
        grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
        counts = Counter(grams)
        if n in TOP_SIZES:
            gram, count = counts.most_common(1)[0] if counts else ((), 0)
            found[f"rps_doc_frac_chars_top_{n}gram"] = sum(map(len, gram)) * count / total if count > 1 else 0.0
        else:
            covered = {i + k for i, gram in enumerate(grams) if counts[gram] > 1 for k in range(n)}
            found[f"rps_doc_frac_chars_dupe_{n}grams"] = sum(len(words[i]) for i in covered) / total if total else 0.0
    return {name: round(value, 8) for name, value in found.items()}


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(["a", "bb", "ccc", "é"]), max_size=60))
def test_equal_to_plain_counting(words: list[str]) -> None:
    view = TextView(" ".join(words))
    assert repetition(view) == _plain(view.words)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 40), min_size=8, max_size=30), st.integers(2, 4))
def test_repeated_passages_equal_plain_counting(passage: list[int], times: int) -> None:
    view = TextView(" unlike ".join([" ".join(f"word{number}" for number in passage)] * times))
    assert repetition(view) == _plain(view.words)


def test_ties_go_to_the_first_seen(score: Score) -> None:
    assert score("repetition", "long words x long words a b y a b")["rps_doc_frac_chars_top_2gram"] == round(18 / 24, 8)


def test_overlaps_may_exceed_one(score: Score) -> None:
    assert score("repetition", "a a a a")["rps_doc_frac_chars_top_2gram"] == 1.5


def test_no_words_score_zero(score: Score) -> None:
    found = score("repetition", "")
    assert found.pop("repetition_undefined") is None
    assert {value for name, value in found.items() if name.startswith("rps_")} == {0.0}
