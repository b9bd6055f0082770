"""Tokens and shingle sets: the stated rule, on scripts with and without spaces, and no accidental equality."""

from __future__ import annotations

import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilth.dedup.shingles import Shingler, tokens


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Foo, bar_baz-2!", ["foo", "bar_baz", "2"]),
        ("  def  f ( x ):\n\n\t\treturn\tx\n" + " " * 1000, ["def", "f", "x", "return", "x"]),
        ("漢字かな交じり", list("漢字かな交じり")),
        ("使用Python3编程", ["使", "用", "python3", "编", "程"]),
        ("ภาษา", ["ภ", "า", "ษ", "า"]),
        ("Größe É", ["größe", "é"]),
        ("한국어 문장", ["한국어", "문장"]),  # Korean has spaces
        ("!!! ... \u3000—", []),
        ("", []),
        ("\0a\0", ["a"]),
        ("𠀀𠀁", ["𠀀", "𠀁"]),
    ],
)
def test_tokens(text: str, found: list[str]) -> None:
    assert tokens(text) == found


@pytest.mark.parametrize("text", ["Ärger İstanbul", "ệ Å ñ", "한글"])
def test_composed_and_decomposed_texts_are_equal(text: str) -> None:
    assert tokens(unicodedata.normalize("NFD", text)) == tokens(unicodedata.normalize("NFC", text))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(st.sampled_from(["a", "b", "c", "漢"]), max_size=12), max_size=6), st.integers(1, 6))
def test_sets_are_those_of_plain_ngrams(documents: list[list[str]], n: int) -> None:
    found = Shingler(n).shingle_sets([" ".join(words) for words in documents])
    plain = []
    for words in documents:
        width = min(n, len(words))
        plain.append({(*words[i : i + width],) for i in range(len(words) - width + 1)} if words else set())
    for here, wanted in zip(found, plain):
        assert len(here) == len(wanted)
        assert np.all(here[1:] > here[:-1])
    for i, a in enumerate(plain):
        for j, b in enumerate(plain):
            assert len(np.intersect1d(found[i], found[j])) == len(a & b)


def test_short_texts_equal_only_texts_with_the_same_tokens() -> None:
    sets = Shingler(5).shingle_sets(["a b", "a b c", "A, b!", "b a", "a b c d e", "a b c d e f"])
    assert [found[0] == sets[0][0] for found in sets] == [True, False, True, False, False, False]
    assert len(np.intersect1d(sets[4], sets[5])) == 1


def test_hashes_do_not_depend_on_the_batch() -> None:
    texts = ["one two three four five six", "漢字 one two"]
    together = Shingler(3).shingle_sets(texts)
    for text, found in zip(texts, together):
        assert np.array_equal(Shingler(3).shingle_sets([text])[0], found)


def test_hashes_stay_what_they_are() -> None:
    # Stored signatures must stay comparable: a change here needs a new version of the step.
    assert Shingler(2).shingle_sets(["the quick brown"])[0].tolist() == [1822529774347625858, 15768733003108633480]
