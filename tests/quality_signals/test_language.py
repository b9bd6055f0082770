"""Language identification on real sentences and on what trips fastText."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

Score = Callable[..., dict[str, Any]]
SENTENCES = {
    "en": "All human beings are born free and equal in dignity and rights.",
    "de": "Alle Menschen sind frei und gleich an Würde und Rechten geboren.",
    "fr": "Tous les êtres humains naissent libres et égaux en dignité et en droits.",
    "es": "Todos los seres humanos nacen libres e iguales en dignidad y derechos.",
    "ru": "Все люди рождаются свободными и равными в своем достоинстве и правах.",
    "zh": "人人生而自由，在尊严和权利上一律平等。",
    "ja": "すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。",
}


@pytest.mark.parametrize("language", SENTENCES)
def test_sentences_are_recognised(score: Score, language: str) -> None:
    found = score("language", SENTENCES[language])
    assert found["lid_language"] == language
    assert 0.5 < found["lid_score"] <= 1.0


@pytest.mark.parametrize("text", ["", " \n ", "123 456", "!!! ___ ...", "\0", "½ ²"])
def test_without_letters_it_is_undefined(score: Score, text: str) -> None:
    found = score("language", text)
    assert found["lid_language"] is None is found["lid_score"]
    assert found["language_undefined"] == "no letters"


@pytest.mark.parametrize("end", ["\n", "\r\n", " </s> ", "\0", "\u2028", "\n\n\n"])
def test_text_after_a_break_counts(score: Score, end: str) -> None:
    # fastText stops at a line feed and at the word </s>; the many German words must outvote the English ones.
    assert score("language", "and" + end + 20 * SENTENCES["de"])["lid_language"] == "de"


def test_long_texts_count_as_a_whole(score: Score) -> None:
    text = SENTENCES["en"] + "\n" + "\n".join([SENTENCES["fr"]] * 500)
    assert score("language", text)["lid_language"] == "fr"


def test_capitals_are_recognised(score: Score) -> None:
    assert score("language", SENTENCES["en"].upper())["lid_language"] == "en"


def test_threads_share_the_model(score: Score) -> None:
    expected = {language: score("language", text) for language, text in SENTENCES.items()}
    wrong: list[str] = []

    def work() -> None:
        for language, text in list(SENTENCES.items()) * 20:
            if score("language", text) != expected[language]:
                wrong.append(language)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
