"""Signatures: the same for any cut of the documents, unbiased, and never mixed across parameters."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilth.dedup.minhash.parameters import PRESETS, MinHashParameters
from tilth.dedup.minhash.shingles import Shingles, shingle
from tilth.dedup.minhash.signatures import Signed, SignedShard, band_keys, sign, write_signatures
from tilth.dedup.minhash.sketch import compute_sketches, maps, sketches
from tilth.dedup.texts.mixing import random_words
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


def plain_sketch(values: list[int], seed: int, n_bins: int) -> list[int]:
    """The definition, bin by bin: of the first round in which any value falls into it the smallest lower half of an image."""
    found = []
    for own in range(n_bins):
        for turn, (factor, offset) in enumerate(maps(seed, n_bins).tolist()):
            images = [(factor * value + offset) % 2**64 for value in values]
            fallen = [image % 2**32 for image in images if turn >= n_bins or (image >> 32) * n_bins >> 32 == own]
            if fallen and turn in (own + n_bins, *range(n_bins)):
                found.append(min(fallen))
                break
        else:
            found.append(2**32 - 1)
    return found


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(0, 2**64 - 1), max_size=9), max_size=5), st.integers(1, 130), st.integers(0, 2**64 - 1))
def test_sketches_are_those_of_the_definition(sets: list[list[int]], n_bins: int, seed: int) -> None:
    values = np.array([value for one in sets for value in one], np.uint64)
    ends = np.concatenate(([0], np.cumsum([len(one) for one in sets]))).astype(np.int64)
    found = sketches(Shingles(values, ends), seed, n_bins)
    assert all(factor % 2 == 1 for factor, _ in maps(seed, n_bins).tolist())
    assert found.tolist() == [plain_sketch(one, seed, n_bins) for one in sets]


@pytest.mark.parametrize("n_values", [1, 3, 40, 250, 2000])
def test_equal_places_estimate_the_similarity(n_values: int) -> None:
    # Pairs of sets that share a half of what each has: J = 1/3, and a third of the places of 100 such pairs agree.
    words = random_words(99, 300 * n_values).reshape(100, 3, n_values)
    sets = np.stack([words[:, :2], words[:, 1:]], axis=1).reshape(-1)
    found = sketches(Shingles(sets, np.arange(201) * 2 * n_values), 0, 192).reshape(100, 2, 192)
    shares = (found[:, 0] == found[:, 1]).mean(axis=1)
    # The places of one pair are more alike than if they were drawn apart, where there are few values to draw from.
    deviation = (2 / 9 / min(192, 3 * n_values)) ** 0.5
    assert abs(shares.mean() - 1 / 3) < 4 * deviation / 10
    assert shares.std() < 1.3 * deviation


def test_a_kernel_that_is_handed_in_computes_the_sketches() -> None:
    calls = []

    def compute(values: np.ndarray, ends: np.ndarray, maps: np.ndarray, n_bins: int) -> np.ndarray:
        calls.append(n_bins)
        return compute_sketches(values, ends, maps, n_bins)

    texts = ["some words that are long enough to make shingles", "others"]
    there = sign(pa.array([0, 1]), pa.array(texts), PARAMETERS, compute)
    assert np.array_equal(there.band_keys, signed(texts).band_keys)
    assert calls == [PARAMETERS.n_permutations]


def test_seeds_and_bands_give_other_keys() -> None:
    one, other = (signed(["some words that are long enough"], MinHashParameters(seed=seed)).band_keys[0] for seed in (0, 1))
    assert not set(one.tolist()) & set(other.tolist())
    assert len(set(one.tolist())) == PARAMETERS.n_bands
    assert len(set(band_keys(np.zeros((1, 8), np.uint32), 8, 1, 0)[0].tolist())) == 8  # a key says which band it is of


def test_keys_stay_what_they_are() -> None:
    # Stored signatures must stay comparable: a change here needs a new version of the step.
    found = signed(["the quick brown fox jumps over the lazy dog"])
    assert (found.sizes.tolist(), found.set_keys.tolist(), found.band_keys[0][:2].tolist()) == KEPT


KEPT = ([5], [10110978171595974933], [15150875653876551213, 15991397915406027156])


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
