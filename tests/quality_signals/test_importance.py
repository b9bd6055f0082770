"""Importance weights: equal to the published code where asked, stable and without its defects otherwise."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from tilth.errors import RecipeError, SourceError
from tilth.quality_signals.models.importance import (
    FeatureExtractor,
    ImportanceParameters,
    importance_manifest,
    importance_model_from_counts,
    importance_weights,
    load_importance_model,
    train_importance_model,
)
from tilth.quality_signals.raw_words import raw_words

TARGET = ["the cat sat on the mat", "a cat and a dog", "the dog sat"]
SOURCE = ["buy cheap pills now", "buy now , buy cheap", "click here now to win", "cheap !!!"]
GOLDEN_BUCKETS = [1006, 1312, 2707, 2900, 3192, 5231, 6343, 7017, 7126, 7997, 8619]


def test_features_are_words_and_pairs() -> None:
    extractor = FeatureExtractor(ImportanceParameters(n_buckets=1 << 20))
    found = extractor.features("b a b a b")
    # Two words (3 and 2 times) and two pairs (2 and 2 times): an order of words is a pair of its own.
    assert sorted(found.counts[found.counts > 0].tolist()) == [2, 2, 2, 3]
    assert (found.n_words, found.n_chars) == (5, 9)
    assert (extractor.features("b a").counts != extractor.features("a b").counts).sum() == 2
    assert extractor.features(" ").counts.sum() == extractor.features("").counts.sum() == 0


def test_scores_are_the_formula() -> None:
    model = train_importance_model(TARGET, SOURCE)
    extractor = FeatureExtractor(ImportanceParameters())
    totals = [Counter[int](), Counter[int]()]
    for total, texts in zip(totals, (TARGET, SOURCE)):
        for text in texts:
            counts = extractor.features(text).counts
            total.update({int(bucket): int(counts[bucket]) for bucket in np.flatnonzero(counts)})
    text = "the cheap cat sat now"
    counts = extractor.features(text).counts
    shares = [{bucket: total[bucket] / total.total() for bucket in range(10_000)} for total in totals]
    weight = sum(int(n) * (math.log(shares[0][b] + 1e-8) - math.log(shares[1][b] + 1e-8)) for b, n in enumerate(counts) if n)
    means = [sum(len(raw_words(text)) for text in texts) / len(texts) for texts in (TARGET, SOURCE)]
    pmfs = [math.exp(-mean) * mean**5 / math.factorial(5) for mean in means]
    row = importance_weights(model, [text]).to_pylist()[0]
    assert row["importance"] == pytest.approx(weight, abs=1e-8)
    assert row["importance_length_correction"] == pytest.approx(weight + math.log(pmfs[0] / pmfs[1]), abs=1e-8)
    assert row["undefined"] is None


def test_wanted_texts_weigh_more() -> None:
    model = train_importance_model(TARGET, SOURCE)
    good, bad = importance_weights(model, ["the cat sat", "buy cheap pills"]).column("importance").to_pylist()
    assert good > 0 > bad


def test_long_texts_keep_their_correction() -> None:
    # The published correction is exactly zero here, since both probabilities underflow.
    model = load_importance_model(train_importance_model(["word " * 500] * 3, ["word " * 700] * 3))
    weight, corrected = model.score("word " * 20_000) or (0.0, 0.0)
    assert corrected - weight == pytest.approx(20_000 * math.log(500 / 700) + 200, abs=1e-6)
    published = load_importance_model(
        train_importance_model(["word " * 500] * 3, ["word " * 700] * 3, ImportanceParameters(compat="redpajama-v2"))
    )
    weight, corrected = published.score("word " * 20_000) or (0.0, 1.0)
    assert corrected == weight


def test_texts_without_words() -> None:
    texts = ["", " \n", "!"]
    found = importance_weights(train_importance_model(TARGET, SOURCE), texts)
    assert found.column("undefined").to_pylist() == ["no words", "no words", None]
    assert found.column("importance").null_count == found.column("importance_length_correction").null_count == 2
    compat = importance_weights(train_importance_model(TARGET, SOURCE, ImportanceParameters(compat="redpajama-v2")), texts)
    assert compat.column("undefined").to_pylist() == ["empty text", None, None]
    assert compat.column("importance").to_pylist()[1] == 0.0


@pytest.mark.parametrize("compat", ["", "redpajama-v2"])
def test_models_are_the_same_bytes_in_any_process_and_order(compat: str) -> None:
    parameters = ImportanceParameters(compat=compat)  # type: ignore[arg-type]
    code = (
        "import sys; from tilth.quality_signals.models.importance import *;"
        f"sys.stdout.buffer.write(train_importance_model({TARGET[::-1]!r}, {SOURCE[::-1]!r}, ImportanceParameters(compat={compat!r})))"
    )
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        made = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True).stdout
        assert made == train_importance_model(iter(TARGET), iter(SOURCE), parameters)


def test_hashes_never_change() -> None:
    # Models of one release must fit the features of the next.
    counts = FeatureExtractor(ImportanceParameters()).features("Größe, 漢字 and naïve words").counts
    assert np.flatnonzero(counts).tolist() == GOLDEN_BUCKETS


def test_the_manifest_says_what_went_in() -> None:
    manifest = importance_manifest(train_importance_model(TARGET, SOURCE))
    assert manifest["target"]["n_texts"] == 3
    assert manifest["source"]["n_words"] == sum(len(raw_words(text)) for text in SOURCE)
    assert manifest["mean_words"]["source"] == manifest["source"]["n_words"] / 4
    assert manifest["parameters"] == {"n_buckets": 10_000, "compat": "", "hash_seed": 42}
    other = importance_manifest(train_importance_model([*TARGET[:-1], "another"], SOURCE))
    assert other["target"]["data_sha256"] != manifest["target"]["data_sha256"]
    assert other["source"] == manifest["source"]


def test_bad_input_is_refused() -> None:
    with pytest.raises(RecipeError, match="target"):
        train_importance_model([" "], SOURCE)
    with pytest.raises(RecipeError, match="redpajama-v3"):
        ImportanceParameters(compat="redpajama-v3")  # type: ignore[arg-type]
    with pytest.raises(RecipeError, match="n_buckets"):
        ImportanceParameters(n_buckets=0)
    with pytest.raises(SourceError, match="not an importance model"):
        importance_weights(b"something else", ["a"])
    with pytest.raises(SourceError, match="cut short"):
        importance_weights(train_importance_model(TARGET, SOURCE)[:-8], ["a"])
    counts = {"target": np.ones(10_000, np.int64), "source": np.zeros(10_000, np.int64)}
    with pytest.raises(SourceError, match="source side"):
        importance_model_from_counts(counts, {"target": 1.0, "source": 1.0}, ImportanceParameters())


@pytest.mark.data
@pytest.mark.parametrize("target", ["wikipedia", "books", "openwebtext"])
def test_published_values_are_reproduced_under_any_hash_seed(test_data: Path, target: str) -> None:
    folder = test_data / "rpv2_reference"
    texts = [json.loads(line)["raw_content"] for line in (folder / "docs.jsonl").read_bytes().splitlines()]
    signals = [json.loads(line)["quality_signals"] for line in (folder / "signals.jsonl").read_bytes().splitlines()]
    artifacts = folder / "artifacts" / "dsir" / "en"
    names = {"target": target, "source": "ccnet"}
    counts = {side: np.load(artifacts / f"{name}.en.10000.counts.npy") for side, name in names.items()}
    mean_words = {side: float(np.load(artifacts / f"{name}.en.lambda.npy")) for side, name in names.items()}
    model = importance_model_from_counts(counts, mean_words, ImportanceParameters(compat="redpajama-v2"))
    found = importance_weights(model, texts)
    for column in ("importance", "importance_length_correction"):
        assert found.column(column).to_pylist() == [row[f"rps_doc_{target}_{column}"][0][2] for row in signals]
