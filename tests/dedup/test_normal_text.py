"""Normal texts and 128-bit hashes: the kernel against the definition written out in Python, for every code point and order."""

from __future__ import annotations

import unicodedata

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilth.dedup.texts.buffers import utf8
from tilth.dedup.texts.hashing import hashes128
from tilth.dedup.texts.normal_text import normal_texts

_MARKS = "\u0301\u0316\u0345\u0327\u0308\u0e38\u302a\u05b0"
_CHARS = st.sampled_from(
    "aB ßΣσςİıéẞ漢。、 \t\r\n\x00\x1c\x85\xa0\xad\u200b\u2028\ufeff.,!?-_'\"+<$1٣①ﬁᾴΐ한각Å" + _MARKS
) | st.characters(exclude_categories=("Cs",))
_TEXTS = st.text(_CHARS, max_size=60)


def plain_form(text: str) -> str:
    """The definition, step by step."""
    folded = unicodedata.normalize("NFD", unicodedata.normalize("NFD", text).casefold())
    kept = [
        " " if char.isspace() else char
        for char in folded
        if char.isspace() or not (unicodedata.category(char)[0] == "P" or unicodedata.category(char) in ("Cc", "Cf"))
    ]
    return " ".join("".join(kept).split())


@settings(max_examples=500, deadline=None)
@given(st.lists(_TEXTS, max_size=5))
def test_the_kernel_follows_the_definition(texts: list[str]) -> None:
    for kind in (pa.string(), pa.large_string()):
        assert normal_texts(pa.array(["x", *texts], kind)[1:]).to_pylist() == [plain_form(text) for text in texts]


def test_every_code_point() -> None:
    chars = [chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000]
    texts = [f"a{char}b\u0301{char}\u0316" for char in chars]
    assert normal_texts(pa.array(texts, pa.large_string())).to_pylist() == list(map(plain_form, texts))


@settings(max_examples=100, deadline=None)
@given(_TEXTS)
def test_the_form_of_a_form_is_itself_and_composing_does_not_count(text: str) -> None:
    (form,) = normal_texts(pa.array([text])).to_pylist()
    again = [form, unicodedata.normalize("NFC", text), unicodedata.normalize("NFD", text), unicodedata.normalize("NFC", form)]
    assert normal_texts(pa.array(again)).to_pylist() == [form] * 4


@settings(max_examples=30, deadline=None)
@given(st.text(st.sampled_from("a" + _MARKS), min_size=17, max_size=400))
def test_long_runs_of_marks_are_ordered_too(text: str) -> None:
    assert normal_texts(pa.array([text])).to_pylist() == [plain_form(text)]


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("", ""),
        (" .\r\n\x00… ", ""),
        ("Don't  stop—\r\nNOW!", "dont stop now"),
        ("ΟΔΟΣ ὁδός", "οδοσ ο\u0314δο\u0301σ"),
        ("İSTANBUL", "i\u0307stanbul"),
        ("Straße STRASSE", "strasse strasse"),
        ("漢字、かな。", "漢字かな"),
        ("zero\0byte", "zerobyte"),
        ("soft\u00adhy\u200bphen", "softhyphen"),
        ("a + b < $5", "a + b < $5"),
    ],
)
def test_examples(text: str, form: str) -> None:
    assert normal_texts(pa.array([text])).to_pylist() == [form]


def test_nulls_slices_and_chunks() -> None:
    texts = pa.chunked_array([pa.array(["A", None, "b."]), pa.array(["C"])])
    assert normal_texts(texts).to_pylist() == ["a", "", "b", "c"]
    assert normal_texts(texts.slice(1, 2)).to_pylist() == ["", "b"]
    assert normal_texts(pa.chunked_array([], pa.string())).to_pylist() == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", (0, 0)),
        ("hello", (0xCBD8A7B341BD9B02, 0x5B1E906A48AE1D19)),
        ("The quick brown fox jumps over the lazy dog", (0xE34BBC7BBC071B6C, 0x7A433CA9C49A9347)),
    ],
)
def test_published_hashes(text: str, words: tuple[int, int]) -> None:
    assert tuple(map(int, hashes128(utf8(pa.array([text])))[0])) == words


def test_a_hash_depends_on_its_text_alone() -> None:
    texts = ["x" * n + tail for n in range(40) for tail in ("", "a", "b")]
    together = hashes128(utf8(pa.array(texts)))
    alone = np.concatenate([hashes128(utf8(pa.array(["junk", text])[1:])) for text in texts])
    assert (together == alone).all()
    assert len(np.unique(together, axis=0)) == len(set(texts))
