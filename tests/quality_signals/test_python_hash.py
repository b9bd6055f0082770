"""Python's own hash, asked of a Python that was started with the seed."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilth.quality_signals.models.python_hash import absolute, pair_hashes, string_hashes

WORDS = [
    "",
    "a",
    "hello",
    "é",
    "日本語",
    "😀",
    "a\0b",
    "ÿĀ",
    "ÿ",
    *("x" * n for n in range(6, 34)),
    "é" * 300,
    "\ud800",
    "漢" * 1000,
]


@pytest.mark.parametrize("seed", [0, 1, 42, 4294967295])
def test_equals_a_python_with_that_seed(seed: int) -> None:
    code = "import json, sys; w = json.load(sys.stdin); print(json.dumps([list(map(hash, w)), list(map(hash, zip(w, w[::-1])))]))"
    environment = {**os.environ, "PYTHONHASHSEED": str(seed)}
    answer = subprocess.run(
        [sys.executable, "-c", code], input=json.dumps(WORDS), env=environment, capture_output=True, text=True, check=True
    )
    strings, pairs = json.loads(answer.stdout)
    found = string_hashes(WORDS, seed)
    assert found.astype(np.int64).tolist() == strings
    assert pair_hashes(found, found[::-1]).astype(np.int64).tolist() == pairs
    assert absolute(found).tolist() == list(map(abs, strings))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text(max_size=20), min_size=1, max_size=8))
def test_each_hash_depends_on_its_own_string_only(strings: list[str]) -> None:
    together = string_hashes(strings, 42).tolist()
    assert together == [int(string_hashes([string], 42)[0]) for string in strings]
    assert len(set(together)) == len(set(strings))


def test_pairs_match_python_under_any_string_hash() -> None:
    # An int hashes to itself, so pairs of ints test the tuple's part alone, whatever this process's seed is.
    values = [0, 1, 2, 7, 1 << 60]
    first, second = np.array(values, np.uint64), np.array(values[::-1], np.uint64)
    assert pair_hashes(first, second).astype(np.int64).tolist() == [hash(pair) for pair in zip(values, values[::-1])]
