"""What an earlier search found saves work and changes nothing, whatever came between."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tilth.dedup.minhash.candidates import Candidates, Company, find_candidates, representatives
from tilth.dedup.minhash.parameters import MinHashParameters
from tilth.dedup.minhash.signatures import SignedShard, sign, write_signatures

PARAMETERS = MinHashParameters(max_bucket=4)


def texts(rng: random.Random, n: int) -> list[str]:
    """Copies, near copies in crowds of more than `max_bucket`, and what has no company."""
    found = []
    for _ in range(n):
        kind = rng.choice(["copy", "crowd", "pair", "alone", "empty"])
        topic = {"copy": rng.randrange(8), "crowd": rng.randrange(3), "pair": rng.randrange(100)}.get(kind, rng.random())
        words = [f"{kind}{topic}word{i}" for i in range(30)]
        if kind in ("crowd", "pair"):
            words[rng.randrange(30)] = f"other{rng.random()}"
        found.append("" if kind == "empty" else " ".join(words))
    return found


def signed(folder: Path, name: str, own: Sequence[str]) -> SignedShard:
    at = folder / name
    at.mkdir()
    write_signatures(at, [sign(pa.array(range(len(own))), pa.array(own), PARAMETERS)], PARAMETERS.n_bands, pa.int64())
    return SignedShard(at, name)


def same(one: Candidates | Company, other: Candidates | Company) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("part_entries", [1 << 22, 64])
def test_a_search_that_knows_an_earlier_one_finds_the_same(
    tmp_path: Path, seed: int, part_entries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tilth.dedup.minhash.candidates.PART_ENTRIES", part_entries)
    rng = random.Random(seed)
    shards = [signed(tmp_path, name, texts(rng, rng.randrange(60, 120))) for name in "abcdef"]
    bands = range(4, 20)

    def search(of: Sequence[SignedShard], gone: np.ndarray, known: object = None) -> tuple[Candidates, Company]:
        found, company = find_candidates(of, bands, representatives(of, gone), PARAMETERS.max_bucket, known, True)  # type: ignore[arg-type]
        assert company is not None
        return found, company

    gone = [np.array([rng.random() < 0.05 for _ in range(shard.n_rows())]) for shard in shards]
    old = sorted(rng.sample(range(6), rng.randrange(1, 6)))
    _, before = search([shards[at] for at in old], np.concatenate([gone[at] for at in old]))
    here = {at: number for number, at in enumerate(old)}

    def known(band: int, shard: int) -> np.ndarray | None:
        return before.of(band, here[shard], len(old)) if shard in here else None

    afresh, knowing = search(shards, np.concatenate(gone)), search(shards, np.concatenate(gone), known)
    assert min(len(afresh[0].pairs), len(afresh[0].members), len(afresh[1].entries)) > 0
    assert same(afresh[0], knowing[0])
    assert same(afresh[1], knowing[1])


def test_company_is_every_entry_whose_key_comes_more_than_once(tmp_path: Path) -> None:
    rng = random.Random(1)
    shards = [signed(tmp_path, name, texts(rng, 80)) for name in "ab"]
    standing = representatives(shards)
    _, company = find_candidates(shards, range(8), standing, 4, keeps_company=True)
    assert company is not None
    for band in range(8):
        runs = [[int(entry) for entry in shard.bands[band]] for shard in shards]
        there = [
            [entry for entry in run if standing[first + (entry & 0xFFFFFF)] == first + (entry & 0xFFFFFF)]
            for run, first in zip(runs, (0, 80), strict=True)
        ]
        keys = [entry >> 24 for run in there for entry in run]
        for shard, run in enumerate(there):
            assert company.of(band, shard, 2).tolist() == [entry for entry in run if keys.count(entry >> 24) > 1]
