"""Word lists, blocked domains and CCNet's numbers: what they count, when they are undefined, which data they refuse."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tilth.errors import SourceError
from tilth.quality_signals.fused.domains import blocked_domains, category_ids, read_domains
from tilth.quality_signals.fused.phrases import read_word_lists, word_lists
from tilth.quality_signals.registry import get_family

Score = Callable[..., dict[str, Any]]


@pytest.mark.parametrize(
    ("text", "language", "share"),
    [
        ("the cat and THE dog", "en", 2 / 5),  # capitals keep a word from being a stop word
        ("der Hund und die Katze", "de", 3 / 5),
        ("l'été où nous étions là", "fr", 5 / 7),
        ("", "en", 0.0),
        ("!!!", "en", 0.0),
    ],
)
def test_stop_words_are_counted_as_they_are_written(score: Score, text: str, language: str, share: float) -> None:
    found = score("stop_words", text, resources={}, language=language)
    assert found["rps_doc_stop_word_fraction"] == round(share, 8)
    assert found["stop_words_undefined"] is None


@pytest.mark.parametrize("family", ["stop_words", "bad_words"])
@pytest.mark.parametrize(("language", "reason"), [(None, "no language"), ("tlh", "no word list for the language")])
def test_a_language_without_a_list_is_undefined(score: Score, family: str, language: str | None, reason: str) -> None:
    found = score(family, "the", language=language)
    assert found[f"{family}_undefined"] == reason
    assert None in found.values()


def test_documents_take_the_list_of_their_language(score: Score) -> None:
    assert score("bad_words", "Darn! Oh, dear: zut", language="en")["rps_doc_ldnoobw_words"] == 2
    assert score("bad_words", "Darn! Oh, dear: zut", language="fr")["rps_doc_ldnoobw_words"] == 1


def test_built_in_stop_words_cover_five_languages() -> None:
    resource = get_family("stop_words").resources["stop_words"]
    assert resource.default is not None
    lists = resource.load(resource.default())
    assert {language: len(words) for language, words in lists.items()} == {"de": 596, "en": 570, "es": 577, "fr": 606, "it": 619}


def test_word_lists_from_a_folder(tmp_path: Path) -> None:
    (tmp_path / "en").write_text("two words\n\n darn \n")
    (tmp_path / "fr.txt").write_text("zut\n")
    (tmp_path / "_en_FETCH_TIMESTAMP").write_text("1")
    (tmp_path / "README.md").write_text("no words")
    assert read_word_lists(word_lists(tmp_path)) == {"en": ("darn", "two words"), "fr": ("zut",)}
    (tmp_path / "de").write_bytes(b"\xff")
    with pytest.raises(SourceError, match="UTF-8"):
        word_lists(tmp_path)


@pytest.mark.parametrize("data", [b"", b"[]", b'{"en": "darn"}', b'{"en": [1]}', b"\xff"])
def test_word_lists_of_another_shape_are_refused(data: bytes) -> None:
    with pytest.raises(SourceError, match="word lists"):
        read_word_lists(data)


@pytest.mark.parametrize(
    ("url", "value", "reason"),
    [
        ("http://casino.example/x?y#z", 8, None),
        ("https://both.example", 16, None),
        ("http://id.example?q", 7, None),
        ("http://www.casino.example/", None, "domain is not listed"),
        ("http://casino.example:80/", None, "domain is not listed"),  # the network location as written
        ("casino.example/x", None, "no domain"),
        ("http://[broken/", None, "domain is not listed"),
        ("", None, "no domain"),
        (None, None, "no domain"),
    ],
)
def test_blocked_domains(score: Score, url: str | None, value: int | None, reason: str | None) -> None:
    found = score("blocked_domains", "text", url=url)
    assert (found["rps_doc_ut1_blacklist"], found["blocked_domains_undefined"]) == (value, reason)


def test_category_ids_enumerate_all_combinations() -> None:
    ids = category_ids()
    assert len(ids) == 2**13 - 1
    assert (ids["adult",], ids["phishing",], ids["chat", "dating"]) == (0, 10, 55)  # as published


def test_domains_from_a_folder(tmp_path: Path) -> None:
    for category, domains in {"adult": "a.example\nb.example\n", "chat": "b.example\n", "cooking": "c.example\n"}.items():
        (tmp_path / category).mkdir()
        (tmp_path / category / "domains").write_text(domains)
    assert read_domains(blocked_domains(tmp_path)) == {"a.example": 0, "b.example": category_ids()["adult", "chat"]}
    with pytest.raises(SourceError, match="no category"):
        blocked_domains(tmp_path / "adult")


@pytest.mark.parametrize(
    "data", [b"{", b"[]", b'{"a": "cooking"}', b'{"a": []}', b'{"a": null}', b'{"a": true}', b'{"a": [["b"]]}']
)
def test_domains_of_another_shape_are_refused(data: bytes) -> None:
    with pytest.raises(SourceError):
        read_domains(data)


def test_ccnet_reads_both_ways_of_naming(score: Score) -> None:
    record = {"bucket": "middle", "perplexity": "338.0", "length": "12", "language_score": "0.93", "nlines": "x"}
    found = score("ccnet", "text", meta=list(record.items()))
    assert (found["ccnet_bucket"], found["ccnet_perplexity"], found["ccnet_length"]) == (1.0, 338.0, 12.0)
    assert (found["ccnet_nlines"], found["ccnet_original_length"]) == (None, None)
    assert found["ccnet_undefined"] == "no nlines; no original_length; no original_nlines"
    assert score("ccnet", "text", meta=[("ccnet_bucket", "2.0"), ("bucket", "head")])["ccnet_bucket"] == 2.0
    assert score("ccnet", "text", meta=[("bucket", "all"), ("ccnet_length", "nan")])["ccnet_undefined"] == "not from CCNet"


@pytest.mark.data
def test_the_data_of_the_reference_are_read(test_data: Path) -> None:
    folder = test_data / "rpv2_reference" / "artifacts"
    assert len(read_word_lists(word_lists(folder / "bad_words"))["en"]) > 300
    domains = (folder / "bad_urls" / "domain_to_category_id.json").read_bytes()
    assert read_domains(domains) == json.loads(domains)
