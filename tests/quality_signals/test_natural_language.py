"""Hand-written cases: words, lines, reasons, and time."""

from __future__ import annotations

import json
import re
import time
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilth.quality_signals.fused.text_batch import TextBatch
from tilth.quality_signals.raw_words import raw_words
from tilth.quality_signals.registry import compute_family, get_family
from tilth.quality_signals.text_view import TextView

Score = Callable[..., dict[str, Any]]
_TEXTS = st.text(
    st.sampled_from("ab Z9.!?…#{}’'-\n\r\u2028éİς\u0301\x1c漢😀\u200d_½") | st.characters(exclude_categories=("Cs",)), max_size=60
)


def test_empty_and_blank_texts_are_undefined_with_reason(score: Score) -> None:
    empty, blank = score("natural_language", ""), score("natural_language", " \n\t\u3000\n")
    assert empty["rps_doc_word_count"] == blank["rps_doc_word_count"] == 0
    assert empty["rps_doc_mean_word_length"] is None is blank["rps_doc_mean_word_length"]
    assert empty["rps_doc_frac_lines_end_with_ellipsis"] is None
    assert blank["rps_doc_frac_lines_end_with_ellipsis"] == 0.0
    assert empty["rps_doc_curly_bracket"] == empty["rps_doc_lorem_ipsum"] == empty["rps_doc_num_sentences"] == 0
    assert set(empty["natural_language_undefined"].split("; ")) == {"no words", "no lines"}
    assert blank["natural_language_undefined"] == "no words"


def test_punctuation_alone_has_raw_words_only(score: Score) -> None:
    found = score("natural_language", "!!! ...")
    assert found["rps_doc_word_count"] == 0
    assert found["rps_doc_symbol_to_word_ratio"] == 0.5
    assert found["rps_doc_frac_no_alph_words"] == 1.0
    assert found["natural_language_undefined"] == "no words"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ΟΔΟΣ ΣΑΣ", ["οδος", "σας"]),  # final sigma
        ("İstanbul", ["i\u0307stanbul"]),  # dotted capital I lower-cases to two code points
        ("caf\u00e9 cafe\u0301", ["cafe\u0301", "cafe\u0301"]),  # composed and decomposed are one word
        ("foo-bar it’s “so”", ["foobar", "it’s", "“so”"]),  # only ASCII punctuation goes
        ("a\r\nb\u2028c\x85d\x1ce", ["a", "b", "c", "d", "e"]),
        ("a\0b", ["a\0b"]),  # NUL is no space
        ("한글", [unicodedata.normalize("NFD", "한글")]),
    ],
)
def test_normal_form(text: str, words: list[str]) -> None:
    found = TextBatch(pa.array([text], pa.large_string())).words
    assert [found.data[start:end].tobytes().decode() for start, end in found.spans] == words


def test_decomposed_length_counts(score: Score) -> None:
    assert score("natural_language", "éé")["rps_doc_mean_word_length"] == 4.0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("e\u0301 x", ["e\u0301", "x"]),  # combining marks belong to the word
        ("👩\u200d👧", ["👩", "\u200d", "👧"]),  # joiners are word characters, emoji are not
        ("a½b", ["a", "½", "b"]),  # fractions are not
        ("a\x1cb", ["a", "\x1c", "b"]),  # nor are information separators, which are no spaces here either
        ("Ⓐ漢字ⅷ", ["Ⓐ漢字ⅷ"]),
        ("foo_bar, baz...", ["foo_bar", ",", "baz", "..."]),
        ("𝔘𝔫𝔦 😀!", ["𝔘𝔫𝔦", "😀!"]),
    ],
)
def test_raw_words(text: str, words: list[str]) -> None:
    assert raw_words(text) == words


@settings(max_examples=50, deadline=None)
@given(_TEXTS)
def test_raw_words_do_not_depend_on_what_else_is_in_the_text(text: str) -> None:
    # The three compiled patterns (ASCII, basic plane, all) must agree where more than one applies.
    assert raw_words(text + " é")[: len(raw_words(text))] == raw_words(text)
    assert raw_words(text + " 😀")[: len(raw_words(text))] == raw_words(text)


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("", []),
        ("\n", [""]),
        ("a\n", ["a"]),
        ("a\nb", ["a", "b"]),
        ("a\r\nb\u2028c\n\n", ["a\r", "b\u2028c", ""]),
        ("\n\n", ["", ""]),
    ],
)
def test_only_line_feeds_end_lines(text: str, lines: list[str]) -> None:
    assert TextView(text).lines == lines


@pytest.mark.parametrize("unit", ["x", "ab ", "a.", "0xff ", "aé\u0301", "\n", "{", "!", "ΑΣ1", "Σ\u00ad", "\u0301\u0323"])
def test_ten_megabytes_on_one_line_take_linear_time(
    unit: str, documents: Callable[..., pa.Table], resources: dict[str, bytes]
) -> None:
    table = documents([unit * (10_000_000 // len(unit.encode()))])
    start = time.process_time()
    for family in ("natural_language", "repetition", "lines", "stop_words", "bad_words", "code_shape"):
        assert compute_family(get_family(family), table, None, resources).num_rows == 1
    # A few seconds here; a quadratic pattern would take hours.
    assert time.process_time() - start < 60


@pytest.mark.data
@pytest.mark.parametrize("language", ["rus", "cmn_hans", "jpn", "arb", "hin", "tha"])
def test_other_languages_have_values_or_a_reason(score: Callable[..., dict[str, Any]], test_data: Path, language: str) -> None:
    text = re.sub("<[^>]*>", "", (test_data / "udhr_xml" / "data" / "udhr" / f"udhr_{language}.xml").read_text("utf-8"))
    for family in ("natural_language", "repetition", "lines", "language", "gopher", "gopher_repetition", "c4", "dolma", "pii"):
        found = score(family, text, language=language)
        assert found[f"{family}_undefined"] is None
        assert None not in [value for name, value in found.items() if not name.endswith("_undefined")]
    for family in ("stop_words", "bad_words"):
        assert score(family, text, language=language)[f"{family}_undefined"] == "no word list for the language"
    words = text.split()
    brought = json.dumps({language: sorted(set(words))}).encode()
    found = score("stop_words", text, resources={"stop_words": brought}, language=language)
    assert 0 < found["rps_doc_stop_word_fraction"] <= 1
