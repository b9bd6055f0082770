"""`tilth dedup --method semantic`: embeddings by row or by id, against every pair of them."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tilth.dedup.minhash.parameters import MinHashParameters
from tilth.errors import ContractError, SourceError
from tilth.pipeline.dedup_files import Search
from tilth.pipeline.dedup_keys import deduplicate_by_keys, semantic_marker

Run = Callable[..., subprocess.CompletedProcess[str]]
N = 120


@pytest.fixture
def vectors(tmp_path: Path) -> np.ndarray:
    """Rows of two files, a null among them, and their vectors: one in three turns a little away from an earlier one."""
    rng = np.random.default_rng(4)
    found = rng.normal(size=(N, 16)).astype(np.float32)
    for row in range(5, N, 3):
        found[row] = found[rng.integers(row)] + rng.normal(scale=0.08, size=16)
    rows = [{"name": f"d{i}", "text": None if i == 9 else f"text {i}"} for i in range(N)]
    for name, part in (("a.jsonl", rows[:50]), ("b.jsonl", rows[50:])):
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in part))
    np.save(tmp_path / "vectors.npy", found)
    order = np.random.default_rng(5).permutation(N)
    more = {"name": [f"d{i}" for i in order] + ["other"], "embedding": [*found[order].tolist(), [1.0] * 16]}
    pq.write_table(pa.table(more), tmp_path / "vectors.parquet")
    return found


def run(folder: Path, embeddings: str, threshold: float = 0.95, id_name: str | None = "name") -> list[dict[str, Any]]:
    search = Search([str(folder / "a.jsonl"), str(folder / "b.jsonl")], folder / "out.parquet", MinHashParameters(), id=id_name)
    deduplicate_by_keys(search, "semantic", "text", semantic_marker(folder / embeddings, threshold, id_name or "id"))
    return pq.read_table(folder / "out.parquet").to_pylist()


@pytest.mark.parametrize("threshold", [0.9, 0.97])
def test_every_pair_at_the_threshold_is_found(vectors: np.ndarray, threshold: float, tmp_path: Path) -> None:
    unit = vectors.astype(np.float64) / np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    cosine = unit @ unit.T
    cosine[9, :] = cosine[:, 9] = 0
    np.fill_diagonal(cosine, 0)
    found = run(tmp_path, "vectors.npy", threshold)
    assert {int(row["id"][1:]) for row in found} == set(np.flatnonzero((cosine >= threshold).any(axis=1)).tolist())
    for row in found:
        assert row["similarity"] == pytest.approx(cosine[int(row["id"][1:]), int(row["matched_id"][1:])], abs=1e-5)
    assert sum(row["is_keeper"] for row in found) == len({row["cluster_id"] for row in found}) > 3
    assert run(tmp_path, "vectors.parquet", threshold) == found


def test_vectors_that_do_not_fit_are_refused(vectors: np.ndarray, tmp_path: Path) -> None:
    np.save(tmp_path / "short.npy", vectors[:-1])
    with pytest.raises(ContractError, match=r"120 documents.*\(119, 16\)"):
        run(tmp_path, "short.npy")
    table = pq.read_table(tmp_path / "vectors.parquet")
    pq.write_table(table.filter(pa.array([name != "d3" for name in table.column("name").to_pylist()])), tmp_path / "less.parquet")
    with pytest.raises(ContractError, match="1 of 119 documents have no embedding"):
        run(tmp_path, "less.parquet")
    with pytest.raises(ContractError, match="no column `id`"):
        run(tmp_path, "vectors.parquet", id_name=None)
    with pytest.raises(SourceError, match="not there"):
        run(tmp_path, "none.npy")
    assert not list(tmp_path.glob(".out*"))


def test_the_verb(vectors: np.ndarray, tmp_path: Path, tilth: Run) -> None:
    words = ["dedup", "a.jsonl", "b.jsonl", "--id", "name", "--method", "semantic", "-o", "out.parquet"]
    done = tilth(*words, "--embeddings", "vectors.parquet", "--threshold", "0.9", "--json", "--keep", "name desc", cwd=tmp_path)
    rows = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert json.loads(done.stdout)["n_members"] == len(rows) > 20
    for cluster in {row["cluster_id"] for row in rows}:
        members = {row["id"]: row["is_keeper"] for row in rows if row["cluster_id"] == cluster}
        assert [name for name, kept in members.items() if kept] == [max(members)]
    assert "give them with `--embeddings FILE`" in tilth(*words, cwd=tmp_path, expect=2).stderr
