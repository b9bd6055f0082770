"""What a word, a character and a token are, and where they lie."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilth.dedup.texts.units import Unit, units_of

_TEXTS = st.lists(st.text(st.sampled_from("ab Z19\n\t_.-'’é́漢กﬁ😀\u00ad\U000e0100") | st.characters(exclude_categories=("Cs",))))


def _pieces(text: str, unit: Unit) -> list[str]:
    found = units_of(pa.array([text]), unit)
    return [text[start:end] for start, end in zip(found.starts.tolist(), found.ends.tolist(), strict=True)]


def _same(left: str, right: str, unit: Unit) -> bool:
    return units_of(pa.array([left]), unit).hashes.tolist() == units_of(pa.array([right]), unit).hashes.tolist()


@pytest.mark.parametrize(
    ("unit", "text", "pieces"),
    [
        ("words", "Don't stop—min_cost(x1, 2)!", ["Don't", "stop", "min", "cost", "x1", "2"]),
        ("words", "漢字kana かな", ["漢", "字", "kana", "か", "な"]),
        ("words", " 'quoted' ", ["quoted"]),
        ("characters", "A-b 漢!", ["A", "b", "漢"]),
        ("tokens", "Don't  go, é_1", ["Don", "'", "t", "go", ",", "é", "_", "1"]),
        ("tokens", "a\u0301b😀c", ["a\u0301b", "😀", "c"]),
        ("words", "", []),
    ],
)
def test_pieces(unit: Unit, text: str, pieces: list[str]) -> None:
    assert _pieces(text, unit) == pieces


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("Émile's ΣΟΦΟΣ", "emile’s σοφος"), ("ＡＢＣ 1", "abc-1"), ("don't", "dont"), ("e\u0301tude", "étude"),
        ("so\u00adil", "soil"), ("STRAẞE", "straße"), ("x,y", "x y"), ("İstanbul", "istanbul"),
    ],
)  # fmt: skip
def test_words_are_compared_without_case_accents_and_marks(left: str, right: str) -> None:
    assert _same(left, right, "words")
    assert not _same(left, right, "tokens")


def test_characters_know_no_bounds_of_words() -> None:
    assert _same("mini-\nmum cost", "minimumcost", "characters")
    assert not _same("mini-\nmum", "minimum", "words")


@settings(max_examples=200, deadline=None)
@given(texts=_TEXTS)
def test_batches_are_their_texts_one_after_the_other(texts: list[str]) -> None:
    for unit in ("words", "characters", "tokens"):
        whole = units_of(pa.array(["x y", *texts], pa.large_string())[1:], unit)  # type: ignore[arg-type]
        parts = [units_of(pa.array([text], pa.string()), unit) for text in texts]  # type: ignore[arg-type]
        assert whole.hashes.tolist() == [value for part in parts for value in part.hashes.tolist()]
        assert whole.n_units.tolist() == [len(part.hashes) for part in parts]
        assert whole.ends.tolist() == [value for part in parts for value in part.ends.tolist()]
        for text, part in zip(texts, parts, strict=True):
            places = [place for pair in zip(part.starts.tolist(), part.ends.tolist(), strict=True) for place in pair]
            assert places == sorted(places)
            assert all(0 <= place <= len(text) for place in places)


def test_tokens_leave_out_white_space_alone() -> None:
    text = "".join(map(chr, [*range(1, 0xD800), *range(0xE000, 0x33500), 0x10FFFF]))
    covered = set()
    found = units_of(pa.array([text]), "tokens")
    for start, end in zip(found.starts.tolist(), found.ends.tolist(), strict=True):
        covered.update(range(start, end))
    assert {text[i] for i in set(range(len(text))) - covered} == {char for char in text if char.isspace()}


def test_nulls_and_nothing() -> None:
    assert units_of(pa.array([None, "a"], pa.string()), "words").n_units.tolist() == [0, 1]
    assert len(units_of(pa.chunked_array([], pa.string()), "words").hashes) == 0
