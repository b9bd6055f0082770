"""Composition of DNA against slow definitions in Python."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilth.quality_signals.registry import compute_family, get_family

SEQUENCES = st.one_of(
    st.text(alphabet="ACGTacgtN", min_size=1, max_size=300),
    st.text(alphabet="ACGTUacgtuNnRYSWKMBDHVryswkmbdhv-*. X", min_size=1, max_size=80),
    st.lists(
        st.sampled_from(["N" * 9, "CG" * 20, "acgt", "A" * 70, "ATT" * 30, "nnn", "T", "S", "W"]), min_size=1, max_size=12
    ).map("".join),
)


def slow(text: str) -> dict[str, Any] | None:
    upper = text.upper().replace("U", "T")
    n = len(text)
    counts = Counter(upper)
    n_bases = sum(counts[letter] for letter in "ACGT")
    if n_bases + counts["N"] < 0.9 * n:
        return None
    gc, at = (sum(counts[letter] for letter in letters) for letters in ("GCS", "ATW"))
    runs = [len(run) for run in "".join("N" if letter == "N" else " " for letter in upper).split()]
    expected = counts["C"] * counts["G"]
    scores = []
    for start in range(0, n, 64):
        tile = upper[start : start + 64]
        triplets = Counter(tile[i : i + 3] for i in range(len(tile) - 2) if set(tile[i : i + 3]) <= set("ACGT"))
        total = sum(triplets.values())
        if total > 1:
            scores.append(sum(count * (count - 1) / 2 for count in triplets.values()) / (total - 1))
    return {
        "dna_gc_fraction": gc / (gc + at) if gc + at else None,
        "dna_n_fraction": counts["N"] / n,
        "dna_n_runs": len(runs),
        "dna_longest_n_run": max(runs, default=0),
        "dna_masked_fraction": sum(letter.islower() for letter in text) / n,
        "dna_ambiguous_fraction": sum(counts[letter] for letter in "RYSWKMBDHV") / n,
        "dna_other_fraction": sum(count for letter, count in counts.items() if letter not in "ACGTNRYSWKMBDHV") / n,
        "dna_cpg_ratio": upper.count("CG") * n_bases / expected if expected else None,
        "dna_dust_mean": sum(scores) / len(scores) if scores else None,
        "dna_low_complexity_fraction": sum(score > 2 for score in scores) / len(scores) if scores else None,
    }


@settings(max_examples=300, deadline=None)
@given(text=SEQUENCES)
def test_every_measure_is_its_definition(text, score):
    found = score("nucleotides", text)
    expected = slow(text)
    if expected is None:
        assert found["nucleotides_undefined"] == "not nucleotides"
        assert found["dna_n_runs"] is None
        return
    for name, value in expected.items():
        assert found[name] == (None if value is None else pytest.approx(value, abs=1e-12)), name
    assert (found["nucleotides_undefined"] is None) == (None not in expected.values())


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty text"),
        ("A cat naps; nuns can act", "not nucleotides"),
        ("Das ist ein Satz über nichts.", "not nucleotides"),
        ("MKVLAAGIVGLLLAQPSFA", "not nucleotides"),
        ("NNNN", "no bases; no C or no G; too short for DUST"),
        ("ACGA", None),
        ("ATATAT", "no C or no G"),
    ],
)
def test_what_is_no_dna_has_a_reason(text, reason, score):
    assert score("nucleotides", text)["nucleotides_undefined"] == reason


def test_known_values(score):
    island = score("nucleotides", "CG" * 100)
    assert (island["dna_gc_fraction"], island["dna_cpg_ratio"]) == (1.0, 2.0)
    assert score("nucleotides", "A" * 64)["dna_dust_mean"] == 31.0  # 62 triplets, all equal: 62 * 61 / 2 / 61
    masked = score("nucleotides", "acgtACGTNNNNNN" * 10)
    assert masked["dna_masked_fraction"] == pytest.approx(4 / 14)
    assert (masked["dna_longest_n_run"], masked["dna_n_runs"]) == (6, 10)
    rng = random.Random(1)
    assert score("nucleotides", "".join(rng.choices("ACGT", k=20_000)))["dna_low_complexity_fraction"] == 0.0


@settings(max_examples=40, deadline=None)
@given(texts=st.lists(SEQUENCES, min_size=1, max_size=6))
def test_a_batch_gives_what_single_texts_give(texts, score, documents):
    table = compute_family(get_family("nucleotides"), documents(texts)).to_pylist()
    for row, text in zip(table, texts, strict=True):
        alone = score("nucleotides", text)
        assert {**row, "row": 0} == alone


@pytest.mark.data
def test_biopython_counts_gc_alike(test_data, score):
    seq_utils = pytest.importorskip("Bio.SeqUtils")
    path = test_data / "lambda_phage" / "example" / "reference" / "lambda_virus.fa"
    text = "".join(path.read_text().splitlines()[1:])
    assert score("nucleotides", text)["dna_gc_fraction"] == pytest.approx(seq_utils.gc_fraction(text), abs=1e-12)
