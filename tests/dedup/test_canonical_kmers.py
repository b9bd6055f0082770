"""Shingles of nucleotides: k-mers that are the same on both strands, against k-mers of strings."""

from __future__ import annotations

import random
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilth.dedup.minhash.parameters import MinHashParameters
from tilth.dedup.minhash.shingles import distinct_sets, shingle
from tilth.errors import RecipeError

PAIRS = dict(zip("ACGTNRY", "TGCANYR", strict=True))


def other(text: str) -> str:
    return "".join(PAIRS[letter] for letter in reversed(text))


def sets(texts: list[str], k: int) -> list[set[int]]:
    found = distinct_sets(shingle(pa.array(texts, pa.large_string()), k, "nucleotides"))
    return [set(found.values[start:end].tolist()) for start, end in pairwise(found.ends)]


def kmers(text: str, k: int) -> set[str]:
    upper = text.upper()
    found = {upper[i : i + k] for i in range(max(1, len(upper) - k + 1))} - {""}
    return {min(one, other(one)) for one in found}


@settings(max_examples=150, deadline=None)
@given(st.lists(st.text(alphabet="ACGTacgtN", max_size=40), min_size=1, max_size=5), st.integers(1, 8))
def test_shared_shingles_are_shared_canonical_kmers(texts: list[str], k: int) -> None:
    found, expected = sets(texts, k), [kmers(text, k) for text in texts]
    for mine, theirs in zip(found, expected, strict=True):
        assert len(mine) == len(theirs)
    for (a, b), (x, y) in zip(pairwise(found), pairwise(expected)):
        # A text of fewer than k letters is one shingle; it equals only a text of the same letters.
        assert len(a & b) == len(x & y)


@given(st.text(alphabet="ACGTNRY", max_size=60))
def test_a_sequence_equals_its_other_strand(text: str) -> None:
    mine, theirs = sets([text, other(text)], 7)
    assert mine == theirs


def test_the_forward_strand_alone_tells_them_apart() -> None:
    text = "".join(random.Random(1).choices("ACGT", k=500))
    found = distinct_sets(shingle(pa.array([text, other(text)], pa.large_string()), 21, "characters"))
    assert not np.intersect1d(found.values[: found.ends[1]], found.values[found.ends[1] :]).size


def test_nobody_else_defines_it() -> None:
    assert MinHashParameters(n=21, unit="nucleotides").label() != MinHashParameters(n=21, unit="characters").label()
    with pytest.raises(RecipeError):
        MinHashParameters(n=21, unit="nucleotides", definition="datasketch")
    with pytest.raises(RecipeError):
        MinHashParameters(unit="codons")  # type: ignore[arg-type]
