"""Hand-written edge cases and random texts against the definitions written out plainly."""

from __future__ import annotations

import math
import re
import string
import time
import unicodedata
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilth.quality_signals.natural_language import natural_language
from tilth.quality_signals.raw_words import raw_words
from tilth.quality_signals.registry import Undefined
from tilth.quality_signals.text_view import TextView

Score = Callable[..., dict[str, Any]]
_TEXTS = st.text(
    st.sampled_from("ab Z9.!?…#{}’'-\n\r\u2028éİς\u0301\x1c漢😀\u200d_½") | st.characters(exclude_categories=("Cs",)), max_size=60
)


def _plain(text: str) -> dict[str, Any]:
    """RedPajama-V2's definitions one by one, with no thought of speed."""
    bare = "".join(char for char in text if char not in string.punctuation)
    normal = unicodedata.normalize("NFD", re.sub(r"\s+", " ", bare.lower().strip()))
    words, lines = normal.split(), re.findall(r"[^\n]*\n|[^\n]+$", text)
    counts, n = Counter(words), len(words)
    raw = raw_words(text)
    symbols = text.count("#") + text.count("...") + text.count("…")
    shares = {
        "rps_doc_mean_word_length": n and sum(map(len, words)) / n,
        "rps_doc_frac_unique_words": n and len(counts) / n,
        "rps_doc_unigram_entropy": sum(-count / n * math.log(count / n) for count in counts.values()),
    }
    raw_shares = {
        "rps_doc_symbol_to_word_ratio": raw and symbols / len(raw),
        "rps_doc_frac_no_alph_words": raw and 1 - sum(bool(re.search("[a-zA-Z]", word)) for word in raw) / len(raw),
        "rps_doc_frac_all_caps_words": raw and sum(word.isupper() for word in raw) / len(raw),
    }
    n_ellipsis = sum(line.rstrip().endswith(("...", "…")) for line in lines)
    return {
        "rps_doc_word_count": n,
        "rps_doc_num_sentences": len(re.findall(r"\b[^.!?]+[.!?]*", text)),
        "rps_doc_frac_lines_end_with_ellipsis": n_ellipsis / len(lines) if lines else None,
        "rps_doc_curly_bracket": sum(char in "{}" for char in text) / len(text) if text else 0.0,
        "rps_doc_lorem_ipsum": normal.count("lorem ipsum") / len(normal) if normal else 0.0,
        **{name: value if words else None for name, value in shares.items()},
        **{name: value if raw else None for name, value in raw_shares.items()},
    }


def _scores(text: str) -> dict[str, Any]:
    return {name: None if isinstance(value, Undefined) else value for name, value in natural_language(TextView(text)).items()}


@settings(max_examples=150, deadline=None)
@given(_TEXTS)
def test_random_texts_follow_the_definitions(text: str) -> None:
    found, wanted = _scores(text), _plain(text)
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        # Two decimals more than stored: sums in another order may fall on the other side of a rounding.
        assert (found[name] is None) == (value is None), name
        assert value is None or found[name] == pytest.approx(value, abs=1.01e-8), name


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
    assert TextView(text).words == words


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


@pytest.mark.parametrize("unit", ["x", "ab ", "a.", "0xff ", "aé\u0301", "\n", "{", "!"])
def test_ten_megabytes_on_one_line_take_linear_time(unit: str, score: Score) -> None:
    text = unit * (10_000_000 // len(unit.encode()))
    start = time.process_time()
    score("natural_language", text)
    score("code_shape", text)
    # About 2 s here; a quadratic pattern would take hours.
    assert time.process_time() - start < 60
