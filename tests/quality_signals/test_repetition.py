"""Repeated n-grams: ties, overlaps, nothing to repeat. That they equal plain counting is in test_rpv2_definitions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tilth.quality_signals.registry import compute_family, get_family

Score = Callable[..., dict[str, Any]]


def test_ties_go_to_the_first_seen(score: Score) -> None:
    assert score("repetition", "long words x long words a b y a b")["rps_doc_frac_chars_top_2gram"] == round(18 / 24, 8)


def test_overlaps_may_exceed_one(score: Score) -> None:
    assert score("repetition", "a a a a")["rps_doc_frac_chars_top_2gram"] == 1.5


def test_no_words_score_zero(score: Score) -> None:
    found = score("repetition", "")
    assert found.pop("repetition_undefined") is None
    assert {value for name, value in found.items() if name.startswith("rps_")} == {0.0}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["varied", "alike"])
def test_texts_of_millions_of_words(documents: Callable[..., pa.Table], kind: str) -> None:
    """From four million words on, pairs that occur once are passed over where most do: against a count by sorting."""
    n_words = 4_500_000
    ids = np.random.default_rng(0).integers(0, 100 if kind == "varied" else 3, n_words)
    if kind == "alike":
        ids = np.tile(ids[:90_000], n_words // 90_000)
    names = [f"{i:02d}" for i in range(100)]
    found = compute_family(get_family("repetition"), documents([" ".join(map(names.__getitem__, ids.tolist()))])).to_pylist()[0]
    for n in range(2, 11):
        keys = np.zeros(n_words - n + 1, np.uint64)
        for step in range(n):
            keys = keys * np.uint64(100) + ids[step : len(ids) - n + 1 + step].astype(np.uint64)
        _, places, counts = np.unique(keys, return_inverse=True, return_counts=True)
        if n < 5:
            top = counts.max()
            assert found[f"rps_doc_frac_chars_top_{n}gram"] == round(float(2 * n * top / (2 * n_words)) if top > 1 else 0.0, 8)
        else:
            starts = counts[places] > 1
            covered = np.zeros(n_words, bool)
            for step in range(n):
                covered[step : step + len(starts)] |= starts
            assert found[f"rps_doc_frac_chars_dupe_{n}grams"] == round(float(2 * covered.sum() / (2 * n_words)), 8)
