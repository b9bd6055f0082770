"""The trained quality score: reproducible to the byte, deaf to labels in the text, and it does tell texts apart."""

from __future__ import annotations

import ast
import email
import inspect
import textwrap
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tilth.errors import RecipeError, SourceError
from tilth.quality_signals.models.quality import QualityParameters, quality_manifest, train_quality_model
from tilth.quality_signals.registry import compute_family, get_family

Score = Callable[..., dict[str, Any]]


def _pieces() -> tuple[list[str], list[str]]:
    """Prose and code of the standard library: documentation strings, and functions without them."""
    prose, code = [], []
    for module in (ast, email, inspect, textwrap, np.ma, np.polynomial.polynomial):
        tree = ast.parse(inspect.getsource(module))
        for node in ast.walk(tree):
            if not isinstance(node, ast.FunctionDef):
                continue
            if text := ast.get_docstring(node):
                prose.append(text)
                node.body = node.body[1:] or [ast.Pass()]
            code.append(ast.unparse(node))
    return prose, code


@pytest.fixture(scope="module")
def pieces() -> tuple[list[str], list[str]]:
    return _pieces()


@pytest.fixture(scope="module")
def model(pieces: tuple[list[str], list[str]]) -> bytes:
    prose, code = pieces
    return train_quality_model(prose[::2], code[::2])


def test_training_is_byte_identical_for_any_order(pieces: tuple[list[str], list[str]], model: bytes) -> None:
    prose, code = pieces
    assert train_quality_model(reversed(prose[::2]), iter(code[::2])) == model
    assert train_quality_model(prose[::2], code[::2], seed=1) != model


def test_unseen_texts_are_told_apart(
    pieces: tuple[list[str], list[str]], model: bytes, documents: Callable[[list[str]], pa.Table]
) -> None:
    prose, code = pieces
    assert len(prose) > 80
    scores = [compute_family(get_family("quality"), documents(side[1::2]), model)["quality_score"] for side in (prose, code)]
    wanted, others = (np.array(side.to_pylist(), dtype=float) for side in scores)
    # Area under the ROC curve by its definition: how often a wanted text scores above another.
    assert (wanted[:, None] > others[None, :]).mean() > 0.97
    assert 0 <= others.min() < wanted.max() <= 1


def test_labels_and_ends_in_the_text_change_nothing(score: Score, model: bytes) -> None:
    text = "return the first of the given values"
    plain = score("quality", text, model)["quality_score"]
    assert score("quality", text + " </s>", model)["quality_score"] == plain
    assert score("quality", text.replace(" ", "\n"), model)["quality_score"] == plain
    assert score("quality", text.replace(" ", "\0"), model)["quality_score"] == plain
    # Were the words labels, each text would be an example of both sides and nothing could be learned.
    sides = ([f"__label__{other} {text}"] * 200 for text, other in (("good text", "negative"), ("bad words", "positive")))
    poisoned = train_quality_model(*sides)
    assert score("quality", "good text", poisoned)["quality_score"] > 0.9
    assert score("quality", "bad words", poisoned)["quality_score"] < 0.1


def test_texts_without_words_are_undefined(score: Score, model: bytes) -> None:
    for text in ("", " \n", "\0", "</s>"):
        found = score("quality", text, model)
        assert (found["quality_score"], found["quality_undefined"]) == (None, "no words")
    assert score("quality", "quuxify zzyzx", model)["quality_score"] is not None  # unknown words still get the prior


def test_the_manifest_says_what_went_in(pieces: tuple[list[str], list[str]], model: bytes) -> None:
    prose, code = pieces
    manifest = quality_manifest(model)
    assert manifest["n_texts"] == {"positive": len(prose[::2]), "negative": len(code[::2])}
    assert manifest["parameters"]["seed"] == QualityParameters().seed == 0
    other = train_quality_model([*prose[:-2:2], "another"], code[::2])
    assert quality_manifest(other)["data_sha256"] != manifest["data_sha256"]


def test_bad_input_is_refused(score: Score) -> None:
    with pytest.raises(RecipeError, match="positive"):
        train_quality_model([" ", ""], ["text"])
    with pytest.raises(SourceError, match="not a quality model"):
        score("quality", "text", b"something else")
