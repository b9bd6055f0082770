"""Tokens and shingle sets: the stated rule, on scripts with and without spaces, and no accidental equality."""

from __future__ import annotations

import unicodedata
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilth.dedup.minhash.shingles import Shingles, distinct_sets, in_batches, set_keys, shingle
from tilth.dedup.texts.tokens import folded_texts, hash_tokens, tokens

TRICKY = "aB_1 \n\t,.-ÄéßŒʼΣσςİıſǅﬁⅧ①²اَكָשׁहिन्दी한글가각漢字𠀀ไทยก็\u0301\u0323\u00a0\u2028\u3000\u200d\0😀𝔘"


def token_hashes(texts: list[str | None], unit: str = "words") -> list[list[int]]:
    data, folded = folded_texts(pa.array(texts, pa.string()))
    hashes, ends = hash_tokens(data, folded, unit)
    return [hashes[start:end].tolist() for start, end in pairwise(ends)]


def sets(texts: list[str | None], n: int) -> list[np.ndarray]:
    found = distinct_sets(shingle(pa.array(texts, pa.string()), n))
    return [found.values[start:end] for start, end in pairwise(found.ends)]


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
    assert len(token_hashes([text])[0]) == len(found)


def test_characters_are_tokens_with_single_spaces() -> None:
    assert tokens("  Ab \n\tc\u3000 ", "characters") == ["a", "b", " ", "c"]
    assert tokens(" \n ", "characters") == []


@pytest.mark.parametrize("text", ["Ärger İstanbul", "ệ Å ñ", "한글", "ΟΔΟΣ ΣΑΣ", "שָׁלוֹם", "हिन्दी"])
def test_composed_and_decomposed_texts_are_equal(text: str) -> None:
    forms = [unicodedata.normalize(form, text) for form in ("NFD", "NFC")]
    assert tokens(forms[0]) == tokens(forms[1])
    assert token_hashes([forms[0]]) == token_hashes([forms[1]])


@settings(max_examples=400, deadline=None)
@given(st.lists(st.text(st.sampled_from(TRICKY) | st.characters(exclude_categories=["Cs"]), max_size=20), min_size=1, max_size=5))
def test_the_kernel_hashes_the_tokens_of_the_definition(texts: list[str]) -> None:
    for unit in ("words", "characters"):
        known: dict[int, str] = {}
        for text, hashes in zip(texts, token_hashes(texts, unit), strict=True):
            wanted = tokens(text, unit)
            assert len(hashes) == len(wanted), (unit, text)
            # Equal hashes stand for equal tokens, and each token has one hash.
            assert all(known.setdefault(value, token) == token for value, token in zip(hashes, wanted, strict=True))
        assert len(set(known.values())) == len(known)


WORDS = [
    "a",
    "_x9",
    "Straße",
    "naïve",
    "ÉCOLE",
    "Ольга",
    "ὈΔΥΣΣΕΎΣ",
    "漢",
    "ไทย",
    "x" * 7,
    "y" * 8,
    "Z" * 9,
    "é" * 4,
    "q" * 63,
    "w" * 200,
    "İ",
    "\u0301",
]
BETWEEN = [" ", ", ", "\n", "—", "”", "’s ", "\u3000", "。", "  -- ", "@", "`", "[", "{", "/", ":", "\x00", "\x7f", "🙂"]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(WORDS), st.sampled_from(BETWEEN)), max_size=60), st.integers(0, 70))
def test_a_word_has_one_hash_wherever_it_stands(parts: list[tuple[str, str]], n_before: int) -> None:
    # Long texts are read sixty-four bytes at a time, the end of a batch and a text of one short word byte by byte.
    text = " " * n_before + "".join(word + between for word, between in parts)
    wanted = [value for token in tokens(text) for value in token_hashes([token])[0]]
    assert token_hashes([text])[0] == wanted
    assert token_hashes([text, "x" * 100])[0] == wanted


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(st.sampled_from(["a", "b", "c", "漢"]), max_size=12), max_size=6), st.integers(1, 6))
def test_sets_are_those_of_plain_ngrams(documents: list[list[str]], n: int) -> None:
    found = sets([" ".join(words) for words in documents], n)
    plain = []
    for words in documents:
        width = min(n, len(words))
        plain.append({(*words[i : i + width],) for i in range(len(words) - width + 1)} if words else set())
    for here, wanted in zip(found, plain, strict=True):
        assert len(here) == len(wanted)
        assert np.all(here[1:] > here[:-1])
    for i, a in enumerate(plain):
        for j, b in enumerate(plain):
            assert len(np.intersect1d(found[i], found[j])) == len(a & b)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 9), max_size=300), max_size=4))
def test_distinct_values_are_sorted(lists: list[list[int]]) -> None:
    values = np.array([value for one in lists for value in one], np.uint64)
    found = distinct_sets(Shingles(values, np.concatenate(([0], np.cumsum([len(one) for one in lists]))).astype(np.int64)))
    assert [found.values[a:b].tolist() for a, b in pairwise(found.ends)] == [sorted(set(one)) for one in lists]


def test_set_keys_do_not_depend_on_order_but_on_every_shingle() -> None:
    def key(*values: int) -> int:
        return int(set_keys(Shingles(np.array(values, np.uint64), np.array([0, len(values)])))[0])

    assert key(1, 2, 3) == key(3, 1, 2)
    assert len({key(), key(0), key(0, 0), key(1, 2), key(1, 2, 3), key(1, 2, 2), key(1, 1, 2)}) == 7


def test_short_texts_equal_only_texts_with_the_same_tokens() -> None:
    found = sets(["a b", "a b c", "A, b!", "b a", "a b c d e", "a b c d e f"], 5)
    assert [one[0] == found[0][0] for one in found] == [True, False, True, False, False, False]
    assert len(np.intersect1d(found[4], found[5])) == 1


def test_shingles_do_not_depend_on_the_batch() -> None:
    texts = ["one two three four five six", "漢字 one two", None, "ΣΑΣ e\u0301 one two three"]
    for text, found in zip(texts, sets(texts, 3), strict=True):
        assert np.array_equal(sets([text], 3)[0], found)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(max_size=30), max_size=20), st.integers(0, 5), st.sampled_from([pa.string(), pa.large_string()]))
def test_batches_hold_the_texts_in_order(texts: list[str], skip: int, kind: pa.DataType) -> None:
    array = pa.array(texts, kind).slice(min(skip, len(texts)))
    assert [text for batch in in_batches(array) for text in batch.to_pylist()] == array.to_pylist()


def test_a_long_text_has_all_its_shingles() -> None:
    n = 300_000
    (found,) = sets([" ".join(map(str, range(n)))], 5)
    assert len(found) == n - 4
    assert np.all(found[1:] > found[:-1])


def test_one_token_a_million_times_is_one_shingle() -> None:
    assert [len(found) for found in sets(["a " * 1_000_000, "a a"], 5)] == [1, 1]


def test_hashes_stay_what_they_are() -> None:
    # Stored signatures must stay comparable: a change here needs a new version of the step.
    assert sets(["the quick brown"], 2)[0].tolist() == KEPT


KEPT = [6269964181119157692, 17996419133516878563]
