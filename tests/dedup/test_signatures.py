"""Signatures: the same for any cut of the documents, unbiased, and never mixed across parameters."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilth.dedup.minhash.minima import band_keys, compute_minima, minima, permutations, random_words
from tilth.dedup.minhash.parameters import PRESETS, MinHashParameters
from tilth.dedup.minhash.shingles import Shingles, shingle
from tilth.dedup.minhash.signatures import Signed, SignedShard, sign, write_signatures
from tilth.errors import ContractError

PARAMETERS = MinHashParameters()


def signed(texts: list[str | None], parameters: MinHashParameters = PARAMETERS) -> Signed:
    return sign(pa.array(range(len(texts))), pa.array(texts, pa.string()), parameters)


def test_any_cut_gives_the_same(planted_texts: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    texts = planted_texts[:40]
    whole = signed(texts)
    parts = [signed(texts[start : start + 7]) for start in range(0, 40, 7)]
    monkeypatch.setattr("tilth.dedup.minhash.shingles.BATCH_BYTES", 100)
    small = signed(texts)
    for column in ("sizes", "set_keys", "band_keys"):
        assert np.array_equal(getattr(whole, column), np.concatenate([getattr(part, column) for part in parts]))
        assert np.array_equal(getattr(whole, column), getattr(small, column))


def test_slices_of_an_array_are_signed_as_what_they_hold(planted_texts: list[str]) -> None:
    array = pa.array(planted_texts[:20])
    there = sign(pa.array(range(5)), array.slice(10, 5), PARAMETERS)
    assert np.array_equal(there.band_keys, signed(planted_texts[10:15]).band_keys)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(0, 2**64 - 1), max_size=9), max_size=5), st.integers(1, 130), st.integers(0, 2**64 - 1))
def test_minima_are_those_of_the_definition(sets: list[list[int]], count: int, seed: int) -> None:
    values = np.array([value for one in sets for value in one], np.uint64)
    ends = np.concatenate(([0], np.cumsum([len(one) for one in sets]))).astype(np.int64)
    found = minima(Shingles(values, ends), seed, count)
    factors, offsets = permutations(seed, count)
    assert all(int(factor) % 2 == 1 for factor in factors)
    for text, one in enumerate(sets):
        for place in range(count):
            images = [(int(factors[place]) * (value >> 32) + int(offsets[place])) % 2**32 for value in one]
            assert found[text, place] == min(images, default=2**32 - 1)


def test_a_longer_sequence_of_permutations_begins_alike() -> None:
    for short, long in zip(permutations(3, 10), permutations(3, 50), strict=True):
        assert np.array_equal(short, long[:10])


def test_equal_minima_estimate_the_similarity() -> None:
    words = random_words(99, 3000)
    values = np.concatenate([words[:2000], words[1000:]])
    found = minima(Shingles(values, np.array([0, 2000, 4000])), 0, 1000)
    # Each of 1000 agrees with probability J = 1/3; four standard deviations are 0.06.
    assert abs((found[0] == found[1]).mean() - 1 / 3) < 0.06


def test_a_kernel_that_is_handed_in_computes_the_minima() -> None:
    calls = []

    def compute(values: np.ndarray, ends: np.ndarray, factors: np.ndarray, offsets: np.ndarray) -> np.ndarray:
        calls.append(values.dtype)
        return compute_minima(values, ends, factors, offsets)

    texts = ["some words that are long enough to make shingles", "others"]
    there = sign(pa.array([0, 1]), pa.array(texts), PARAMETERS, compute)
    assert np.array_equal(there.band_keys, signed(texts).band_keys)
    assert calls == [np.uint32]


def test_seeds_and_bands_give_other_keys() -> None:
    one, other = (signed(["some words that are long enough"], MinHashParameters(seed=seed)).band_keys[0] for seed in (0, 1))
    assert not set(one.tolist()) & set(other.tolist())
    assert len(set(one.tolist())) == PARAMETERS.n_bands
    assert len(set(band_keys(np.zeros((1, 8), np.uint32), 8, 1, 0)[0].tolist())) == 8  # a key says which band it is of


def test_keys_stay_what_they_are() -> None:
    # Stored signatures must stay comparable: a change here needs a new version of the step.
    found = signed(["the quick brown fox jumps over the lazy dog"])
    assert (found.sizes.tolist(), found.set_keys.tolist(), found.band_keys[0][:2].tolist()) == KEPT


KEPT = ([5], [7082265253162372860], [16292262685383090064, 7138845077502058702])


def test_files_hold_what_was_signed(planted_texts: list[str], tmp_path: Path) -> None:
    texts = [None, *planted_texts[:30], "", "!!!", "one"]
    batches = [signed(texts[:11]), signed(texts[11:])]
    assert write_signatures(tmp_path, batches, PARAMETERS.n_bands, pa.int64()) == 34
    shard, whole = SignedShard(tmp_path, "s"), signed(texts)
    assert np.array_equal(shard.sizes, whole.sizes)
    assert shard.n_rows() == 34
    assert shard.ids().to_pylist() == [*range(11), *range(23)]
    there = np.flatnonzero(whole.sizes)
    assert there.tolist() == [*range(1, 31), 33]
    for band in range(PARAMETERS.n_bands):
        wanted = sorted((int(whole.band_keys[row, band]) >> 24 << 24) + int(row) for row in there)
        assert shard.bands[band].tolist() == wanted


def test_a_shard_without_rows_is_written(tmp_path: Path) -> None:
    assert write_signatures(tmp_path, [], PARAMETERS.n_bands, pa.string()) == 0
    shard = SignedShard(tmp_path, "s")
    assert (shard.n_rows(), shard.bands.shape, len(shard.ids())) == (0, (PARAMETERS.n_bands, 0), 0)


def test_a_shard_of_too_many_rows_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tilth.dedup.minhash.signatures.MAX_ROWS", 2)
    with pytest.raises(ContractError, match="at most 2"):
        write_signatures(tmp_path, [signed(["a", "b", "c"])], PARAMETERS.n_bands, pa.int64())


@pytest.mark.parametrize(("name", "shape"), [("fineweb", (14, 8)), ("stack-v2", (25, 10))])
def test_presets_are_what_was_published(name: str, shape: tuple[int, int]) -> None:
    preset = PRESETS[name]
    assert (preset.n_bands, preset.n_rows, preset.n) == (*shape, 5)
    assert signed(["five words are here now"], preset).band_keys.shape == (1, shape[0])
    assert shingle(pa.array(["five words are here now"]), preset.n).ends.tolist() == [0, 1]
