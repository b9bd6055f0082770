"""C4's line rules, by hand: what each removes, where, and what edits leave. Decisions are in test_rule_decisions.py."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilth.errors import ContractError
from tilth.quality_signals.edits import EDITS, apply_edits, edit_table
from tilth.quality_signals.families.c4 import c4, c4_edits
from tilth.quality_signals.families.fineweb import fineweb
from tilth.quality_signals.fused.text_batch import TextBatch

TEXT = (
    "This line stays.\r\n"
    "No mark at the end\n"
    "Two words.\n"
    "Ends in an ellipsis...\n"
    "  Enable JavaScript to read on.  \n"
    "We use cooKies on this site.\n" + "x" * 1001 + " is far too long.\n"  # U+212A is a capital K
    "Said so [12] and so [citation needed]. He stays [edit]!"
).replace("cooK", "coo\u212a")


def scores(text: str, family: Any = c4) -> dict[str, Any]:
    found = family(TextBatch(pa.array([text], pa.large_string())))
    return {name: array[0].as_py() for name, array in found.columns.items()}


def test_lines_count_for_their_first_fault() -> None:
    found = scores(TEXT)
    counts = {name.removeprefix("c4_n_"): value for name, value in found.items() if name.startswith("c4_n_")}
    assert counts == {
        "lines": 8,
        "kept_lines": 2,
        "long_word_lines": 1,
        "no_terminal_mark_lines": 2,
        "few_words_lines": 1,
        "lorem_ipsum_lines": 0,
        "javascript_lines": 1,
        "curly_bracket_lines": 0,
        "policy_lines": 1,
        "sentences": 3,
        "lorem_ipsum_lines_any_end": 0,
        "curly_bracket_lines_any_end": 0,
        "sentences_any_end": 5,
    }


def test_removed_lines_are_spans_with_their_reasons() -> None:
    found = scores(TEXT)
    spans = zip(found["c4_removed_line_starts"], found["c4_removed_line_ends"], strict=True)
    lines = [TEXT[start:end] for start, end in spans]
    assert lines == TEXT.splitlines(keepends=True)[1:-1]
    assert found["c4_removed_line_reasons"] == [
        "c4_no_terminal_mark",
        "c4_few_words",
        "c4_no_terminal_mark",
        "c4_javascript",
        "c4_policy",
        "c4_long_word",
    ]


def test_edits_say_what_goes_and_why() -> None:
    texts = pa.array(["", TEXT], pa.large_string())
    edits = c4_edits(texts)
    assert edits.schema.equals(EDITS)
    assert set(edits.column("row").to_pylist()) == {1}
    assert apply_edits(texts, edits).to_pylist() == ["", "This line stays.\nSaid so  and so . He stays !"]
    assert edits.column("reason").to_pylist().count("c4_citation") == 3


@pytest.mark.parametrize(
    ("line", "column"),
    [("Here is lorem IPSUM again.", "c4_n_lorem_ipsum_lines"), ("One { bracket is enough.", "c4_n_curly_bracket_lines")],
)
def test_a_line_that_condemns_its_page_counts_only_where_it_would_stay(line: str, column: str) -> None:
    assert scores(line)[column] == 1
    without_mark = scores(line[:-1])
    assert (without_mark[column], without_mark[f"{column}_any_end"]) == (0, 1)
    assert scores(f"javascript {line}")["c4_n_curly_bracket_lines"] == 0  # JavaScript is looked for before brackets


def test_third_longest_line_is_that_of_line_feeds() -> None:
    assert scores("aaa\nbb\rcc\nc\ndddd")["c4_third_longest_line"] == 3
    assert scores("a\nb")["c4_third_longest_line"] == 0
    assert scores("a\nb\n")["c4_third_longest_line"] == 0  # the third is empty


def test_fineweb_by_hand() -> None:
    found = scores("First line.\nFirst line.\n \nno mark at the end of this one, which is long\nNo. \n", fineweb)
    assert {name: value for name, value in found.items() if "_after_c4_" not in name} == {
        "fineweb_terminal_line_frac": 2 / 4,
        "fineweb_short_line_frac": 3 / 4,
        "fineweb_dupe_line_char_frac": 11 / (11 + 11 + 1 + 45 + 4),
        "fineweb_newline_word_ratio": 5 / (3 + 3 + 12 + 2),
    }
    # C4 leaves the long line alone: the others have two words at most.
    assert found["fineweb_after_c4_short_line_frac"] == 0
    assert found["fineweb_after_c4_newline_word_ratio"] == 0
    assert set(scores(" \n", fineweb).values()) == {None}


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.sampled_from(["the reader stays here. ", "[1]", "[edit]", " ", "\n", "\r\n", "\x85", "two.", "\u3000", "a b c\n"]),
        max_size=30,
    )
)
def test_fineweb_after_c4_is_fineweb_of_what_edits_leave(pieces: list[str]) -> None:
    texts = pa.array(["".join(pieces), "end"], pa.large_string())
    left = apply_edits(texts, c4_edits(texts, needs_terminal_mark=False))
    after, plain = fineweb(TextBatch(texts)).columns, fineweb(TextBatch(left)).columns
    for name in ("terminal_line_frac", "short_line_frac", "dupe_line_char_frac", "newline_word_ratio"):
        assert after[f"fineweb_after_c4_{name}"].equals(plain[f"fineweb_{name}"])


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.sampled_from(["the reader stays here. ", "[1]", "[edit]", " ", "\n", "\r\n", "\x85", "{", "two.", "…", "\u3000"]),
        max_size=30,
    )
)
def test_edits_are_in_order_and_leave_nothing_to_edit(pieces: list[str]) -> None:
    texts = pa.array(["".join(pieces)], pa.large_string())
    for needs_terminal_mark in (True, False):
        once = apply_edits(texts, c4_edits(texts, needs_terminal_mark))
        # Only what a citation hid can be a fault of a line afterwards.
        if "[" not in texts[0].as_py():
            assert apply_edits(once, c4_edits(once, needs_terminal_mark)).equals(once)


def test_edits_that_do_not_fit_are_refused() -> None:
    texts = pa.array(["abc"], pa.large_string())
    assert apply_edits(texts, edit_table([])).to_pylist() == ["abc"]
    assert apply_edits(texts, edit_table([(0, 1, 1, "-", "x"), (0, 2, 3, "", "x")])).to_pylist() == ["a-b"]
    for edits in ([(0, 2, 4, "", "x")], [(0, 1, 2, "", "x"), (0, 1, 2, "", "x")]):
        with pytest.raises(ContractError, match="does not fit"):
            apply_edits(texts, edit_table(edits))
