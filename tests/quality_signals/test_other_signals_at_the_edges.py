"""The texts of `test_rpv2_definitions` for the signals that need a model, a list or a record, against plain definitions."""

from __future__ import annotations

import hashlib
import importlib.util
import itertools
import math
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pyarrow as pa
import pytest

from tilth.quality_signals.models.importance import ImportanceParameters, importance_model_from_counts
from tilth.quality_signals.models.quality import train_quality_model
from tilth.quality_signals.registry import compute_family, get_family

BUCKETS = 1000
WORDS_OF = {"target": 120.0, "source": 80.0}
COUNTS = {
    side: np.random.default_rng(seed).integers(0, 1000, BUCKETS).astype(np.int64)
    for seed, side in enumerate(("target", "source"))
}


@pytest.fixture(scope="module")
def definitions() -> ModuleType:
    spec = importlib.util.spec_from_file_location("definitions", Path(__file__).with_name("test_rpv2_definitions.py"))
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def texts(definitions: ModuleType) -> list[str]:
    found: list[str] = list(definitions.EDGES.values())
    return found


def _spread(state: int) -> int:
    """The finaliser of splitmix64 (Steele et al. 2014)."""
    state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    state = (state ^ state >> 27) * 0x94D049BB133111EB % 2**64
    return state ^ state >> 31


def _importance(words: list[str]) -> tuple[float, float] | None:
    if not words:
        return None
    hashes = [int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little") for word in words]
    pairs = [_spread((one * 0x94D049BB133111EB + two) % 2**64) for one, two in itertools.pairwise(hashes)]
    shares = {side: [count / COUNTS[side].sum() + 1e-8 for count in COUNTS[side].tolist()] for side in COUNTS}
    buckets = [hashed % BUCKETS for hashed in hashes + pairs]
    weight = math.fsum(math.log(shares["target"][bucket]) - math.log(shares["source"][bucket]) for bucket in buckets)
    target, source = WORDS_OF["target"], WORDS_OF["source"]
    return weight, weight + len(words) * math.log(target / source) - (target - source)


def test_importance(documents: Callable[..., pa.Table], definitions: ModuleType, texts: list[str]) -> None:
    model = importance_model_from_counts(COUNTS, WORDS_OF, ImportanceParameters(n_buckets=BUCKETS))
    found = compute_family(get_family("importance"), documents(texts), model).to_pylist()
    for text, row in zip(texts, found):
        words = ["".join(run) for kind, run in itertools.groupby(text, definitions._kind) if kind != "space"]
        expected = _importance(words)
        if expected is None:
            assert (row["importance"], row["importance_undefined"]) == (None, "no words")
        else:
            assert (row["importance"], row["importance_length_correction"]) == pytest.approx(expected, abs=1e-7)


def test_quality_sees_words_alone(documents: Callable[..., pa.Table], texts: list[str]) -> None:
    """White space of any kind parts words, NUL too, and nothing in a text is taken for a label or for its end."""
    model = train_quality_model(["the lorem ipsum is of a b c"] * 9, ["ΟΔΟΣ 漢字 été x y"] * 9)
    ugly = [*texts, "a </s> lorem ipsum the", "__label__positive the x", "a\0b"]
    plain = [
        " ".join(text.lower().replace("\0", " ").replace("__label__", "label").replace("</s>", " ").split()) for text in ugly
    ]
    score = [compute_family(get_family("quality"), documents(some), model).to_pydict() for some in (ugly, plain)]
    assert score[0] == score[1]
    assert [value is None for value in score[0]["quality_score"]] == [not text for text in plain]
    assert {reason for reason in score[0]["quality_undefined"] if reason} == {"no words"}
    assert all(0 <= value <= 1 for value in score[0]["quality_score"] if value is not None)


@pytest.mark.parametrize(
    ("written", "number"),
    [
        ("0.5", 0.5),
        ("12", 12.0),
        ("1e3", 1000.0),
        (" 7 ", 7.0),
        ("-1", -1.0),
        ("nan", None),
        ("inf", None),
        ("1_000", None),
        ("١٢", None),
        ("0x10", None),
        ("1,5", None),
        ("\0", None),
        ("", None),
    ],
)
def test_numbers_of_records(score: Callable[..., dict[str, object]], written: str, number: float | None) -> None:
    names = ("language_score", "length", "nlines", "original_length", "original_nlines", "perplexity")
    for name in names:
        found = score("ccnet", "text", meta=[(name, written)])
        assert found[f"ccnet_{name}"] == number, name
        assert (found["ccnet_undefined"] == "not from CCNet") == (number is None)
        beside = score("ccnet", "text", meta=[(name, written), ("bucket", "head")])  # the same from the slower way
        assert beside[f"ccnet_{name}"] == number


@pytest.mark.parametrize("bucket", ["head", "middle", "tail", "all", "", "HEAD", "3", "1.0", "２"])
def test_buckets_of_records(score: Callable[..., dict[str, object]], bucket: str) -> None:
    expected = {"head": 0.0, "middle": 1.0, "tail": 2.0, "1.0": 1.0}.get(bucket)
    assert score("ccnet", "text", meta=[("bucket", bucket)])["ccnet_bucket"] == expected


@pytest.mark.parametrize(
    ("url", "listed"),
    [
        ("http://casino.example", True),
        ("HTTP://casino.example/", True),
        ("http://CASINO.example/", False),
        ("http://user@casino.example/", False),
        ("http://casino.example\\@x/", False),
        ("http://casino.example./", False),
        ("http://xn--casino.example/", False),
        ("//casino.example/", False),
        ("http:/casino.example/", False),
        (" http://casino.example/", False),
        ("http://casino.example\0/", False),
        ("http://cas\u0131no.example/", False),
    ],
)
def test_domains_at_the_edges(score: Callable[..., dict[str, object]], url: str, listed: bool) -> None:
    found = score("blocked_domains", "text", url=url)
    assert (found["rps_doc_ut1_blacklist"] == 8) == listed
    assert (found["blocked_domains_undefined"] is None) == listed
