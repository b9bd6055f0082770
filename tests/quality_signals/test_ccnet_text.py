"""CCNet's normal form for language models against its definition, step by step."""

from __future__ import annotations

import json
import re
import time
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilth.quality_signals.models.ccnet_text import normalize_for_model

_TEXTS = st.text(
    st.sampled_from("abZ 019\n\r\t\x1c\x85\u2028\u3000ΣσςİéǅẞȺ１٣।“”’—…．━►［漢한😀𝟗\x7f\x9f!.\x00\u0301½²")
    | st.characters(exclude_categories=("Cs",)),
    max_size=60,
)
_PAIRS = (
    ("，", ","), ("。", "."), ("、", ","), ("„", '"'), ("”", '"'), ("“", '"'), ("«", '"'), ("»", '"'), ("」", '"'), ("「", '"'),
    ("《", '"'), ("》", '"'), ("´", "'"), ("∶", ":"), ("：", ":"), ("？", "?"), ("！", "!"), ("（", "("), ("）", ")"), ("；", ";"),
    ("–", "-"), ("—", " - "), ("．", ". "), ("～", "~"), ("’", "'"), ("…", "..."), ("━", "-"), ("〈", "<"), ("〉", ">"), ("【", "["),
    ("】", "]"), ("％", "%"), ("►", "-"),
)  # fmt: skip


def _plain(text: str) -> str:
    """Strip, lower, accents, digits, punctuation, control characters: one after the other."""
    text = unicodedata.normalize("NFD", text.strip().lower())
    text = "".join(char for char in text if unicodedata.category(char) != "Mn")
    text = re.sub(r"\d", "0", text)
    for typographic, plain in _PAIRS:
        text = text.replace(typographic, plain)
    return "".join(char for char in text if not (ord(char) < 32 or 127 <= ord(char) < 160))


@settings(max_examples=400, deadline=None)
@given(_TEXTS)
def test_the_steps_are_equal_to_one_after_the_other(text: str) -> None:
    assert normalize_for_model(text) == _plain(text)


def test_every_code_point() -> None:
    text = "".join(f"{chr(code)}x" for code in range(0x110000) if not 0xD800 <= code < 0xE000)
    assert normalize_for_model(text) == _plain(text)


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("", ""),
        (" \n\u3000", ""),
        ("Two\nlines run\r\ntogether", "twolines runtogether"),
        ("Élan, naïve; İstanbul", "elan, naive; istanbul"),
        ("In 2024: ٣٤", "in 0000: 00"),
        ("“Yes” — no…", '"yes"  -  no...'),
        ("ΟΔΟΣ", "οδος"),
        ("한", unicodedata.normalize("NFD", "한")),
        ("½ ²", "½ ²"),
    ],
)
def test_hand_written_cases(text: str, normal: str) -> None:
    assert normalize_for_model(text) == normal


@pytest.mark.data
def test_real_documents(test_data: Path) -> None:
    for line in (test_data / "rpv2_reference" / "docs.jsonl").read_bytes().splitlines():
        text = json.loads(line)["raw_content"]
        assert normalize_for_model(text) == _plain(text)


def test_runs_of_marks_take_linear_time() -> None:
    """Python's own sorting of five million marks takes hours."""
    marks = "\u302e\u0301\u302f\u0344\u1d165"  # the Hangul marks stay, being no Mn
    text = "a" * 5000 + "e\u0301" + marks * 1500
    assert normalize_for_model(text) == normalize_for_model("a" * 5000 + "e") + normalize_for_model(marks * 1500)
    start = time.process_time()
    assert len(normalize_for_model("x" + "\u302e\u302a" * 2_000_000)) == 2_000_001
    assert time.process_time() - start < 20
