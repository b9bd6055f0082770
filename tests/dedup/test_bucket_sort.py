"""Sorting by buckets against NumPy's sort: any width, words that begin alike, and as many of them as overflow a bucket."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilth.dedup.bucket_sort import ascending


@settings(deadline=None)
@given(words=st.lists(st.integers(0, 2**64 - 1), max_size=400), width=st.integers(0, 64))
def test_any_words_of_any_width(words: list[int], width: int) -> None:
    found = np.array(words, np.uint64) if width == 64 else np.array([word >> (64 - width) for word in words], np.uint64)
    assert np.array_equal(ascending(found, width), np.sort(found))


@pytest.mark.parametrize("n", [7, 8, 63, 64, 65, 20_000])
def test_words_that_begin_alike(n: int) -> None:
    """Two keys of many rows that share their leading bits and take turns, among others."""
    chance = np.random.default_rng(n)
    words = chance.integers(0, 2**63, n, dtype=np.uint64) << np.uint64(1)
    of_two = chance.random(n) < 0.8
    words[of_two] = np.uint64(5 << 50) + (np.arange(n, dtype=np.uint64)[of_two] % np.uint64(2) << np.uint64(30))
    before = words.copy()
    assert np.array_equal(ascending(words), np.sort(words))
    assert np.array_equal(words, before)
