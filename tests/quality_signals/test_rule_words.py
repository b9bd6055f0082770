"""Words are cut as spaCy's blank English tokeniser cuts them, to the character.

Recorded: `words` in rule_decisions.json, written by tests/quality_signals/record_rules.py; asked live where spaCy is installed.
"""

from __future__ import annotations

import importlib.util
import json
import random
import re
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tilth.quality_signals.rules import characters
from tilth.quality_signals.rules.exceptions import exceptions
from tilth.quality_signals.rules.texts import cut, english_tables, in_parts

RECORD = Path(__file__).with_name("rule_decisions.json")
ATOMS = (
    *"aAbBzZ019.,:;!?'\"()[]{}<>-_=+*/\\|#$%&@~^`",
    *(
        "’",
        "‘",
        "“",
        "…",
        "—",
        "–",
        "°",
        "C",
        "£",
        "US$",
        "C$",
        "km",
        "km/h",
        "m²",
        "%",
        "é",
        "É",
        "Я",
        "中",
        "。",
        "・",
        "ﾊ",
        "א",
        "؟",
    ),
    *(
        "।",
        "\u200b",
        "\u00a0",
        "\u3000",
        "\t",
        "\n",
        " ",
        "  ",
        "\r\n",
        "\u2028",
        "http://",
        "www.",
        "example.com",
        "user@host.org",
    ),
    *(
        "10.0.0.1",
        "8.8.8.8",
        ":8080",
        "/p?q=1",
        "...",
        "--",
        "n't",
        "'s",
        "İ",
        "ſ",
        "\u212a",
        "🙂",
        "𝐀",
        "𠀀",
        "٣",
        "\u2329",
        "\x00",
    ),
    *("\x1c", "\x85", "\ufeff", "U.S.", "e.g.", "10a.m", "p.m."),
)


def words_of(texts: list[str]) -> list[list[str]]:
    found = []
    for part in in_parts(pa.array(texts, pa.large_string())):
        words, chars = part.words, part.codes.tobytes().decode("utf-32-le")
        spans = list(zip(words.firsts.tolist(), words.lasts.tolist()))
        ends = words.ends.tolist()
        found += [[chars[first:last] for first, last in spans[ends[text] : ends[text + 1]]] for text in range(len(part))]
    return found


@pytest.fixture(scope="module")
def recorder() -> Any:
    spec = importlib.util.spec_from_file_location("record_rules", RECORD.with_name("record_rules.py"))
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def split() -> Callable[[str], list[str]]:
    pytest.importorskip("spacy", reason="spaCy is not installed")
    pytest.importorskip("datatrove", reason="datatrove is not installed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from datatrove.utils.text import split_into_words

        split_into_words("The first text loads spaCy.")
    return split_into_words


def test_words_are_those_recorded(recorder: Any) -> None:
    recorded = json.loads(RECORD.read_text(encoding="utf-8"))["words"]
    together = recorded.pop("all")
    assert len(recorded) > 90
    assert dict(zip(recorded, words_of(list(recorded)))) == recorded
    # Where pieces stand together, words that only a blank parts may keep others from being an exception.
    assert words_of([recorder.PIECES]) == [together]


def test_exceptions_and_characters_are_spacys() -> None:
    spacy = pytest.importorskip("spacy", reason="spaCy is not installed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tokenizer = spacy.blank("en").tokenizer
        from spacy.lang import char_classes
        from spacy.symbols import ORTH
    rules = {string: tuple(word[ORTH] for word in words) for string, words in tokenizer.rules.items() if string.strip()}
    assert exceptions() == rules
    table = characters.character_classes()
    every = "".join(map(chr, [*range(0xD800), *range(0xE000, 0x30000)]))  # beyond it the classes have nothing
    for bit, members in (
        (characters.LETTER, char_classes.ALPHA),
        (characters.LOWER, char_classes.ALPHA_LOWER),
        (characters.UPPER, char_classes.ALPHA_UPPER),
        (characters.ICON, char_classes.CONCAT_ICONS),
        (characters.QUOTE, char_classes.CONCAT_QUOTES),
    ):
        assert [ord(char) for char in re.findall(f"[{members}]", every)] == np.flatnonzero(table & np.uint32(bit)).tolist(), bit
    assert set(characters.UNITS.split()) == set(char_classes.UNITS.split("|"))


def test_words_of_wild_texts_are_spacys(split: Callable[[str], list[str]]) -> None:
    source = random.Random(20260102)
    strings = list(exceptions())

    def piece() -> str:
        if source.random() < 0.25:
            return source.choice(strings)
        return "".join(source.choice(ATOMS if source.random() < 0.8 else strings) for _ in range(source.randint(1, 7)))

    texts = [source.choice(("", " ")).join(piece() for _ in range(source.randint(1, 7))) for _ in range(3000)]
    for text, words in zip(texts, words_of(texts)):
        assert words == split(text), text


@pytest.mark.data
def test_words_of_real_documents_are_spacys(test_data: Path, split: Callable[[str], list[str]]) -> None:
    lines = (test_data / "rpv2_reference" / "docs.jsonl").read_bytes().splitlines()
    texts = [json.loads(line)["raw_content"] for line in lines][::4]
    texts += [path.read_text(encoding="utf-8") for path in sorted((test_data / "nltk_udhr").rglob("*UTF8*"))[:20]]
    for text, words in zip(texts, words_of(texts)):
        assert words == split(text)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(st.sampled_from(sorted({char for atom in ATOMS for char in atom})), max_size=40), max_size=4))
@example(["°C. a. °C.)"])
def test_words_hold_every_character_but_white_space(texts: list[str]) -> None:
    for text, words in zip(texts, words_of(texts), strict=True):
        assert "".join(words) == "".join(text.split())


@pytest.mark.parametrize("piece", ["a.", ")", "@a", ":1", "-", "\U00020000.", "." + "a" * 70, "(((", "a@b.c/", "[1", "\u3000"])
def test_time_grows_with_the_length_alone(piece: str) -> None:
    text = piece * (200_000 // len(piece))
    (part,) = in_parts(pa.array([text], pa.large_string()))
    english_tables()
    start = time.process_time()
    words = cut(part, english_tables())
    assert time.process_time() - start < 5
    assert int(words.ends[-1]) <= len(text)


def test_parts_do_not_change_the_words() -> None:
    texts = ["Mr. O'Neill isn't here.", "", "naïve café…", "a" * 50] * 5
    whole: Any = words_of(texts)
    for array in (pa.array(texts, pa.string()), pa.array(["x", *texts, "y"], pa.large_string()).slice(1, len(texts))):
        parts = list(in_parts(array, part_bytes=30))
        assert len(parts) > 5
        assert sum(map(len, parts)) == len(texts)
        assert [int(n) for part in parts for n in np.diff(part.words.ends)] == [len(words) for words in whole]
