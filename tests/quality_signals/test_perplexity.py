"""The whole of CCNet's perplexity: the same numbers as SentencePiece and kenlm give step by step."""

from __future__ import annotations

import inspect
import json
import random
import sysconfig
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tilth.errors import RecipeError, SourceError
from tilth.quality_signals.models.arpa import read_arpa, write_arpa
from tilth.quality_signals.models.ccnet_text import normalize_for_model
from tilth.quality_signals.models.kneser_ney import KneserNeyParameters
from tilth.quality_signals.models.perplexity import (
    LanguageModelParameters,
    language_model_manifest,
    load_language_model,
    pack_language_model,
    perplexities,
    train_language_model,
)

PARAMETERS = LanguageModelParameters(n_pieces=400)


@pytest.fixture(scope="module")
def texts() -> list[str]:
    """Documentation of the standard library, in pieces, some with words of other scripts."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    found = []
    for name in ("argparse", "ast", "csv", "difflib", "heapq", "inspect", "textwrap", "random"):
        found += [part for part in (folder / f"{name}.py").read_text("utf-8").split('"""')[1::2] if len(part) > 80]
    return [*found, "Größe und naïve Wörter", "漢字かな交じり文"]


@pytest.fixture(scope="module")
def model(texts: list[str]) -> bytes:
    return train_language_model(texts[::2], PARAMETERS)


def test_training_is_byte_identical_for_any_order(texts: list[str], model: bytes) -> None:
    shuffled = random.Random(2).sample(texts[::2], len(texts[::2]))
    assert train_language_model(iter(shuffled), PARAMETERS) == model
    assert train_language_model(texts[::2][:-1], PARAMETERS) != model


@pytest.mark.parametrize("n_pieces", [400, 0])
def test_equals_kenlm_step_by_step(texts: list[str], tmp_path: Path, n_pieces: int) -> None:
    kenlm = pytest.importorskip("kenlm", reason="kenlm is not installed; it builds from source")
    import sentencepiece

    made = train_language_model(texts[::2], LanguageModelParameters(n_pieces=n_pieces))
    model = load_language_model(made)
    write_arpa(model.ngrams, tmp_path / "model.arpa")
    config = kenlm.Config()
    config.show_progress, config.arpa_complain = False, kenlm.ARPALoadComplain.NONE
    reference = kenlm.Model(str(tmp_path / "model.arpa"), config)
    header = json.loads(made.split(b"\n", 2)[1])
    start = len(b"\n".join(made.split(b"\n", 2)[:2])) + 1
    pieces = made[start : start + header["sizes"]["pieces"]]
    odd = ["", " \n ", "\u1680 ogham\u1680space", "a\u2028b", "␀ ☃ 😀", "</s> <s> <unk>", "x" * 5000, "unseen zyzzyva"]
    for text, row in zip([*texts, *odd], perplexities(made, [*texts, *odd]).to_pylist()):
        line = normalize_for_model(text)
        if n_pieces:
            line = " ".join(sentencepiece.SentencePieceProcessor(model_proto=pieces).encode_as_pieces(line))
        if not line.strip():
            assert (row["perplexity"], row["undefined"]) == (None, "no words")
            continue
        score, length = reference.score(line), len(line.split()) + 1
        assert row["log10_probability"] == score, text
        assert row["perplexity"] == round(10.0 ** (-score / length), 1), text
        assert row["n_tokens"] == length - 1


def test_texts_like_the_training_texts_are_less_surprising(texts: list[str], model: bytes) -> None:
    rng = random.Random(0)
    scrambled = ["".join(rng.sample(text, len(text))) for text in texts[1::2]]
    plain, odd = (
        np.median(perplexities(model, side).column("perplexity").to_pylist()) for side in (texts[1:-2:2], scrambled[:-1])
    )
    assert plain * 3 < odd


def test_scores_do_not_depend_on_the_batch(texts: list[str], model: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    from tilth.quality_signals.models import perplexity

    whole = perplexities(model, texts)
    monkeypatch.setattr(perplexity, "_CHARS_AT_ONCE", 100)
    assert perplexities(model, iter(texts)) == whole
    assert pa.concat_tables([perplexities(model, [text]) for text in texts]).combine_chunks() == whole
    assert perplexities(model, []).num_rows == 0


def test_a_foreign_arpa_file_can_be_used(texts: list[str], tmp_path: Path) -> None:
    made = train_language_model(texts, LanguageModelParameters(n_pieces=0, ngrams=KneserNeyParameters(order=3)))
    write_arpa(load_language_model(made).ngrams, tmp_path / "words.arpa")
    again = pack_language_model(read_arpa(tmp_path / "words.arpa"))
    assert perplexities(again, texts) == perplexities(made, texts)


def test_the_manifest_says_what_went_in(texts: list[str], model: bytes) -> None:
    manifest = language_model_manifest(model)
    assert manifest["n_texts"] == len(texts[::2])
    assert manifest["parameters"]["n_pieces"] == 400
    assert len(manifest["n_ngrams"]) == len(manifest["discounts"]) == 5
    assert manifest["data_sha256"] != language_model_manifest(train_language_model(texts[1::2], PARAMETERS))["data_sha256"]


def test_pieces_are_learned_from_a_part_and_long_lines_are_cut(texts: list[str]) -> None:
    part = LanguageModelParameters(n_pieces=300, max_piece_bytes=20_000)
    long = [" ".join(texts), inspect.getsource(random)]
    assert language_model_manifest(train_language_model(long, part))["n_texts"] == 2


def test_bad_input_is_refused(model: bytes) -> None:
    with pytest.raises(RecipeError, match="no text"):
        train_language_model([" ", ""], PARAMETERS)
    with pytest.raises(RecipeError, match="SentencePiece cannot learn"):
        train_language_model(["ab"], LanguageModelParameters(n_pieces=3))
    with pytest.raises(SourceError, match="not a language model"):
        perplexities(b"something else", ["a"])
    with pytest.raises(SourceError, match="cut short"):
        perplexities(model[:-8], ["a"])
    with pytest.raises(SourceError, match="not a SentencePiece model"):
        load_language_model(pack_language_model(load_language_model(model).ngrams, b"junk"))
