"""The Bloom filter: never misses a copy, errs no more than it says, goes on where it was saved, refuses other parameters."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilth.contracts import SEEN, check
from tilth.dedup.exact.bloom import BloomFilter, BloomParameters, seen_documents
from tilth.errors import ContractError, RecipeError


def _keys(rng: np.random.Generator, n: int) -> np.ndarray:
    return np.frombuffer(rng.bytes(16 * n), np.uint64).reshape(-1, 2)


@pytest.mark.parametrize(("error_rate", "expected"), [(0.1, 2000), (0.01, 100_000), (1e-3, 100_000), (1e-4, 100_000)])
def test_the_stated_error_rate_holds_when_the_filter_is_full(error_rate: float, expected: int) -> None:
    rng = np.random.default_rng(5)
    bloom = BloomFilter(BloomParameters(expected, error_rate))
    full = _keys(rng, expected)
    bloom.add(full)
    assert bloom.contains(full).all()  # what was seen is never forgotten
    assert bloom.contains(_keys(rng, 2_000_000)).mean() <= error_rate


def test_the_rate_is_not_much_better_than_stated_either() -> None:
    parameters = BloomParameters(1_000_000, 1e-3)
    assert parameters.n_bits / parameters.expected < 14.4 * 1.03
    assert parameters.n_hashes == 10


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from(["a", "A.", "b", "c", "", "?"]), max_size=20), st.integers(0, 20))
def test_the_first_of_a_stream_is_kept_however_it_is_cut(
    make_documents: Callable[..., pa.Table], texts: list[str], cut: int
) -> None:
    documents = make_documents(texts)
    bloom = BloomFilter(BloomParameters(1000, 1e-9, "normal_text"))
    found = [row for table in seen_documents([documents.slice(0, cut), documents.slice(cut)], bloom) for row in table.to_pylist()]
    wanted, known = [], set()
    for row, text in enumerate(texts):
        key = text.strip(".?").lower()
        if key and key in known:
            wanted.append(row)
        known.add(key)
    assert [row["row"] for row in found] == wanted
    assert {(row["method"], row["error_rate"]) for row in found} <= {("normal_text", 1e-9)}
    assert bloom.n_seen == len(known - {""})


def test_a_second_run_goes_on_where_the_first_was_saved(make_documents: Callable[..., pa.Table], tmp_path: Path) -> None:
    path, parameters = tmp_path / "seen.bloom", BloomParameters(1000, 1e-6, "normal_text")
    first, second = make_documents(["a", "b", "a"], "crawl/1"), make_documents(["b", "c"], "crawl/2")
    bloom = BloomFilter.open(path, parameters)
    (found,) = seen_documents([first], bloom)
    check(found, SEEN)
    assert found.column("row").to_pylist() == [2]
    assert not path.exists()  # a run that dies before it saves changes nothing
    bloom.save(path)
    bloom = BloomFilter.open(path, parameters)
    (found,) = seen_documents([second], bloom)
    assert (found.column("shard").to_pylist(), found.column("row").to_pylist()) == (["crawl/2"], [0])
    bloom.save(path)
    assert BloomFilter.open(path, parameters).n_seen == 3
    assert [file.name for file in tmp_path.iterdir()] == ["seen.bloom"]


def test_other_parameters_are_refused_with_the_difference(tmp_path: Path) -> None:
    path = tmp_path / "seen.bloom"
    BloomFilter(BloomParameters(1000, 1e-3)).save(path)
    with pytest.raises(RecipeError, match=r"error_rate 0.001 -> 0.0001, method exact -> url"):
        BloomFilter.open(path, BloomParameters(1000, 1e-4, "url"))


def test_a_damaged_or_another_file_is_refused(tmp_path: Path) -> None:
    path, parameters = tmp_path / "seen.bloom", BloomParameters(1000, 1e-3)
    BloomFilter(parameters).save(path)
    data = path.read_bytes()
    for damaged, words in (
        (data[:-8], "cut short"),
        (b"x" * 8192, "no Bloom filter"),
        (data.replace(b"n_seen", b"m_seen"), "damaged"),
    ):
        path.write_bytes(damaged)
        with pytest.raises(ContractError, match=words):
            BloomFilter.open(path, parameters)


def test_a_full_filter_says_so(tmp_path: Path) -> None:
    bloom = BloomFilter(BloomParameters(100, 1e-3))
    rng = np.random.default_rng(1)
    bloom.add(_keys(rng, 100))
    with pytest.raises(ContractError, match="full: more than 100"):
        bloom.add(_keys(rng, 50))


@pytest.mark.parametrize(("expected", "error_rate"), [(0, 0.1), (10, 0.0), (10, 1.0), (10, -1)])
def test_impossible_parameters_are_refused(expected: int, error_rate: float) -> None:
    with pytest.raises(RecipeError, match="error_rate"):
        BloomParameters(expected, error_rate)
    with pytest.raises(RecipeError, match="no method"):
        BloomParameters(10, 0.1, "minhash")
