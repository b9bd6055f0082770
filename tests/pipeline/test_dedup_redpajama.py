"""`tilth dedup --preset redpajama-v2`: the published bands decide what is compared, the texts what is a duplicate."""

from __future__ import annotations

import json
import random
import subprocess
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tilth.errors import RecipeError
from tilth.pipeline.dedup_files import Search, deduplicate
from tilth.pipeline.interchange.banded_minhash import band_signatures
from tilth.pipeline.interchange.redpajama_v2_minhash import RedPajamaMinHash, sign_texts
from tilth.quality_signals.fused.text_batch import TextBatch

Run = Callable[..., subprocess.CompletedProcess[str]]


def _texts(n: int = 160) -> list[str]:
    """Pages of 200 words, two thirds of them copies of an earlier one with up to 8 words changed; and some that are short."""
    rng = random.Random(11)
    found: list[str] = []
    for _ in range(n):
        words = [f"w{rng.randrange(5000)}" for _ in range(200)]
        if len(found) > 20 and rng.random() < 0.66:
            words = rng.choice(found).split()
            for _ in range(rng.randrange(9)):
                words[rng.randrange(len(words))] = f"x{rng.randrange(1000)}"
        found.append(" ".join(words))
    return [*found, *["twelve words are too few for a signature of thirteen of them"] * 3, ""]


def _similarity(a: str, b: str) -> float:
    one, two = (set(zip(*[text.split()[i:] for i in range(13)])) for text in (a, b))
    return len(one & two) / len(one | two)


def _write(path: Path, texts: list[str]) -> None:
    path.write_text("".join(json.dumps({"id": str(i), "text": text}) + "\n" for i, text in enumerate(texts)))


@pytest.mark.parametrize("threshold", [0.7, 0.8, 0.9, 1.0])
def test_duplicates_share_a_published_band_and_are_as_similar_as_it_says(threshold: float, tmp_path: Path) -> None:
    texts = _texts()
    _write(tmp_path / "a.jsonl", texts)
    near = RedPajamaMinHash(threshold)
    found = deduplicate(Search([str(tmp_path / "a.jsonl")], tmp_path / "out.parquet", near, id="id"))
    bands = band_signatures(TextBatch(pa.array(texts)))[near.column].to_pylist()
    similar = {(i, j): _similarity(texts[i], texts[j]) for i, j in combinations(range(160), 2)}
    wanted = {
        pair for pair, value in similar.items()
        if value >= threshold and any(one == two for one, two in zip(bands[pair[0]], bands[pair[1]], strict=True))
    }  # fmt: skip
    rows = pq.read_table(tmp_path / "out.parquet").to_pylist()
    members = {int(row["id"]) for row in rows}
    assert members == {document for pair in wanted for document in pair}
    assert found.n_without_text == 4  # fewer than thirteen words: compared with nothing
    for row in rows:
        pair = (min(int(row["id"]), int(row["matched_id"])), max(int(row["id"]), int(row["matched_id"])))
        assert row["similarity"] == pytest.approx(similar[pair], abs=1e-6)
    assert len(members) > 8


def test_keys_of_bands_are_equal_where_the_published_bands_are() -> None:
    texts = pa.array([*_texts(60), None])
    near = RedPajamaMinHash(0.7)
    signed = sign_texts(texts, texts, near)
    bands = band_signatures(TextBatch(texts.fill_null("")))[near.column].to_pylist()
    assert signed.sizes.tolist()[-5:] == [0] * 5
    for i, j in combinations(range(60), 2):
        same = [one == two for one, two in zip(bands[i], bands[j], strict=True)]
        assert np.array_equal(signed.band_keys[i] == signed.band_keys[j], same)


def test_the_verb(tmp_path: Path, tilth: Run) -> None:
    _write(tmp_path / "a.jsonl", _texts())
    words = ["dedup", "a.jsonl", "--id", "id", "--preset", "redpajama-v2", "-o", "out.parquet"]
    done = tilth(*words, cwd=tmp_path)
    assert "9 bands of 13 rows (117 permutations) of 13 words" in done.stderr
    assert "(as published)" in done.stderr
    assert "14 bands of 9 rows" in tilth(*words, "--threshold", "0.7", "--explain", cwd=tmp_path).stderr
    refused = tilth(*words, "--n", "5", "--recall", "0.9", cwd=tmp_path, expect=2).stderr
    assert "leaves no choice of --n, --recall" in refused
    assert "There are 0.7, 0.8, 0.9, 1." in tilth(*words, "--threshold", "0.75", cwd=tmp_path, expect=2).stderr


def test_other_thresholds_are_not_published() -> None:
    with pytest.raises(RecipeError, match="no signatures for this threshold"):
        RedPajamaMinHash(0.95)
