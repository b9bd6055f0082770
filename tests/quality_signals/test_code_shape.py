"""Shapes of hand-written files, and of encoded data in them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

Score = Callable[..., dict[str, Any]]


def test_counts_of_a_small_file(score: Score) -> None:
    found = score("code_shape", "int x1;\r\n\r\nreturn é;\n")
    assert found["n_lines"] == 3
    assert found["max_line_length"] == 9
    assert found["mean_line_length"] == 16 / 3
    assert found["alphabetic_fraction"] == 11 / 21
    assert found["alphanumeric_fraction"] == 12 / 21
    assert found["encoded_data_fraction"] == 0.0
    assert found["longest_encoded_run"] == 0
    assert found["code_shape_undefined"] is None


def test_empty_text(score: Score) -> None:
    found = score("code_shape", "")
    assert (found["n_lines"], found["max_line_length"], found["longest_encoded_run"]) == (0, 0, 0)
    assert found["mean_line_length"] is found["alphabetic_fraction"] is found["encoded_data_fraction"] is None
    assert found["code_shape_undefined"] == "empty text"


@pytest.mark.parametrize(
    ("data", "longest"),
    [
        ("QUJD" * 16, 64),
        ("QUJD" * 15 + "QUJ", 0),  # one short of 64
        ("0x1f, " * 8, 0),  # a space after the comma ends the run
        ("0x1f," * 8, 40),
        ("de ad be ef 00 11 22 33", 23),
        ("de ad be ef 00 11 22", 0),
        (r"\u00e9" * 8, 48),
        (r"\u00e9" * 7, 0),
    ],
)
def test_encoded_data(score: Score, data: str, longest: int) -> None:
    text = f"= '{data}' ;"
    found = score("code_shape", text)
    assert found["longest_encoded_run"] == longest
    assert found["encoded_data_fraction"] == longest / len(text)


def test_what_two_patterns_match_counts_once(score: Score) -> None:
    text = "\n".join(["ab"] * 40)  # base64 with newlines, and hexadecimal pairs
    assert score("code_shape", text)["encoded_data_fraction"] == 1.0


def test_letters_of_every_script_count(score: Score) -> None:
    assert score("code_shape", "漢字 ٣")["alphanumeric_fraction"] == 3 / 4
    assert score("code_shape", "漢字 ٣")["alphabetic_fraction"] == 2 / 4
