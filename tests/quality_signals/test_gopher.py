"""Gopher's numbers, by hand and against definitions written out plainly; decisions are in test_rule_decisions.py."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilth.quality_signals.families.gopher import gopher, gopher_repetition
from tilth.quality_signals.fused.text_batch import TextBatch
from tilth.quality_signals.registry import compute_family, get_family


def numbers(family: Any, text: str) -> dict[str, Any]:
    found = family(TextBatch(pa.array([text], pa.large_string())))
    return {name: array[0].as_py() for name, array in found.columns.items()}


def test_quality_by_hand() -> None:
    found = numbers(gopher, "- The cat # isn't here...\nWait…\n• to be 99\n")
    # - The cat # is n't here ... Wait … • to be 99: of 14 words ten are not punctuation alone (• is none of datatrove's marks).
    assert found == {
        "gopher_n_words": 10,
        "gopher_mean_word_length": (3 + 3 + 2 + 3 + 4 + 4 + 1 + 2 + 2 + 2) / 10,
        "gopher_hash_word_ratio": 1 / 14,
        "gopher_ellipsis_word_ratio": 2 / 14,
        "gopher_bullet_line_frac": 2 / 3,
        "gopher_ellipsis_line_frac": 2 / 3,
        "gopher_alphabetic_word_frac": 8 / 14,
        "gopher_n_stop_words": 2,
    }


def test_repetition_by_hand() -> None:
    text = "same line\nsame line\n\nother\n\nsame line\nsame line"
    found = numbers(gopher_repetition, text)
    assert found["gopher_dupe_paragraph_frac"] == 1 / 3
    assert found["gopher_dupe_paragraph_char_frac"] == 19 / len(text)
    assert found["gopher_dupe_line_frac"] == 3 / 5
    assert found["gopher_dupe_line_char_frac"] == 27 / len(text)
    assert found["gopher_top_2gram_char_frac"] == 4 * len("same line") / len(text)
    # The first of the most frequent counts: "same line same" and "line same line" would be as long.
    assert found["gopher_top_4gram_char_frac"] == 2 * len("same line same line") / len(text)
    assert found["gopher_dupe_5gram_char_frac"] == 0


@pytest.mark.parametrize("text", ["", " \n\t ", "\x00- a", "…", "\n\n", "a"])
def test_texts_without_words_say_why(text: str) -> None:
    table = pa.table({"shard": ["s"], "row": pa.array([0], pa.int32()), "text": pa.array([text], pa.large_string())})
    for name in ("gopher", "gopher_repetition"):
        row = compute_family(get_family(name), table).to_pylist()[0]
        assert (None in [row[column] for column in get_family(name).columns]) <= (row[f"{name}_undefined"] is not None)
    assert numbers(gopher_repetition, "")["gopher_dupe_line_frac"] is None


def test_a_bullet_behind_a_control_character_is_none() -> None:
    assert numbers(gopher, "\x00- a")["gopher_bullet_line_frac"] == 0
    assert numbers(gopher, "\x1c\u2003- a")["gopher_bullet_line_frac"] == 1 / 2  # \x1c ends a line


def plain_top(words: list[str], n: int) -> int:
    grams = [" ".join(words[at : at + n]) for at in range(len(words) - n + 1)]
    gram, count = Counter(grams).most_common(1)[0] if grams else ("", 0)
    return len(gram) * count


def plain_dupe(words: list[str], n: int) -> int:
    seen, chars, at = set(), 0, 0
    while at + n <= len(words):
        gram = "".join(words[at : at + n])
        chars += len(gram) if gram in seen else 0
        at += n if gram in seen else 1
        seen.add(gram)
    return chars


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.sampled_from(["a", "b", "aa", "ab", "1", "11", "long", "longer", "é", "中"]), min_size=1, max_size=60),
    st.integers(1, 4),
)
def test_ngrams_are_the_plain_definition(words: list[str], times: int) -> None:
    # Words of letters or digits alone stay whole, so that blanks are all that parts them.
    text = " ".join(words * times)
    found = numbers(gopher_repetition, text)
    for n in (2, 3, 4):
        assert found[f"gopher_top_{n}gram_char_frac"] == plain_top(words * times, n) / len(text)
    for n in range(5, 11):
        assert found[f"gopher_dupe_{n}gram_char_frac"] == plain_dupe(words * times, n) / len(text)


def test_what_is_cut_elsewhere_but_reads_the_same_repeats() -> None:
    words = [*"1", "11", *"111x", "11", *"1111y"]
    found = numbers(gopher_repetition, " ".join(words))
    assert plain_dupe(words, 5) > 0
    assert found["gopher_dupe_5gram_char_frac"] == plain_dupe(words, 5) / len(" ".join(words))
