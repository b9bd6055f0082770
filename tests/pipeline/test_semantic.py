"""Semantic duplicates in a build: from a function or a file of embeddings to a column of the catalog."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tilth.artifacts import Store
from tilth.catalog.sql import run_sql
from tilth.contracts import uuid_bytes
from tilth.dedup.semantic.hashed_ngrams import HashedNgrams

Run = Callable[..., subprocess.CompletedProcess[str]]
RECIPE = """
from pathlib import Path
import numpy as np
from tilth import Corpus, Folder
from tilth.dedup.semantic.duplicates import Semantic

def lengths(texts):
    return np.array([[len(text), {slope}] for text in texts], np.float32)

def corpus(file: str = "", threshold: float = 0.98) -> Corpus:
    return Corpus(
        sources=[Folder("prose", {prose!r}), Folder("noise", {noise!r})],
        signals=(),
        tokenizer=None,
        duplicates=(Semantic(file or lengths, threshold=threshold),),
    )
"""


@pytest.fixture
def own_project(tmp_path: Path, inputs: Path) -> Path:
    """A project whose recipe takes a file of embeddings, or a function of its own."""
    (tmp_path / "recipes").mkdir()
    write_recipe(tmp_path, inputs, 1)
    return tmp_path


def write_recipe(project: Path, inputs: Path, slope: int) -> None:
    text = RECIPE.format(prose=str(inputs / "prose"), noise=str(inputs / "noise"), slope=slope)
    (project / "recipes" / "own.py").write_text(text)


def test_near_texts_are_no_semantic_keepers_and_still_keepers(built: Path) -> None:
    store = Store(built / ".tilth")
    query = (
        "select path, is_keeper, is_semantic_keeper from small where source = 'prose' and not is_semantic_keeper order by path"
    )
    dropped = {row["path"]: row["is_keeper"] for row in run_sql(store, query).to_pylist()}
    # Of 000.txt, copy-000.txt and near-000.txt the first by its path stays.
    assert dropped.keys() == {f"{kind}{number:03d}.txt" for number in range(5) for kind in ("copy-", "near-")}
    (row,) = run_sql(
        store,
        "select min(similarity) as least, count(*) as n, count(*) filter (is_keeper) as kept from small.duplicates "
        "where method = 'semantic' and shard like 'prose%'",
    ).to_pylist()
    assert (row["n"], row["kept"]) == (15, 5)
    assert 0.98 <= row["least"] <= 1


@pytest.mark.parametrize("suffix", ["npy", "parquet"])
def test_a_file_of_embeddings(suffix: str, own_project: Path, tilth: Run) -> None:
    tilth("build", "own", cwd=own_project)
    store = Store(own_project / ".tilth")
    query = "select shard, row, text from own order by shard, row"
    documents = run_sql(store, query)
    vectors = HashedNgrams(64)(documents.column("text").to_pylist())
    path = own_project / f"vectors.{suffix}"
    if suffix == "npy":
        np.save(path, vectors)
    else:
        backwards = {name: documents.column(name).to_pylist()[::-1] for name in ("shard", "row")}
        pq.write_table(pa.table({**backwards, "embedding": pa.array(vectors[::-1].tolist(), pa.list_(pa.float32()))}), path)
    said = tilth("build", "own", f"file={path}", cwd=own_project).stderr
    assert "2 outputs made" in said
    kept = run_sql(store, "select count(*) n from own where source = 'prose' and not is_semantic_keeper").to_pylist()
    assert kept == [{"n": 10}]
    vectors[3] = vectors[2]
    np.save(own_project / "vectors.npy", vectors)
    said = tilth("build", "own", f"file={own_project / 'vectors.npy'}", "--explain", cwd=own_project).stdout
    assert "input changed: embeddings" in said


def test_another_function_embeds_again(own_project: Path, inputs: Path, tilth: Run) -> None:
    tilth("build", "own", cwd=own_project)
    assert "up to date" in tilth("build", "own", cwd=own_project).stderr
    write_recipe(own_project, inputs, 2)
    said = tilth("build", "own", "--explain", cwd=own_project).stdout
    (line,) = [line for line in said.splitlines() if line.strip().startswith("embeddings")]
    assert line.split()[1:3] == ["2", "2"]


def test_a_file_that_is_not_there(own_project: Path, tilth: Run) -> None:
    said = tilth("build", "own", "file=none.npy", cwd=own_project, expect=2).stderr
    assert "the file of embeddings is not there" in said
    assert "none.npy" in said


def test_the_marks_are_those_of_the_embeddings(built: Path) -> None:
    store = Store(built / ".tilth")
    named = store.get_named("corpus", "small")
    marks = pq.read_table(store.artifact(named.one("dedup.semantic")).path / "duplicates.parquet")
    by_id = {row["doc_id"].replace("-", ""): row["text"] for row in run_sql(store, "select doc_id, text from small").to_pylist()}
    pairs = [uuid_bytes(marks.column(name)) for name in ("doc_id", "matched_id")]
    left, right = (HashedNgrams(64)([by_id[one.hex()] for one in ids]).astype(np.float64) for ids in pairs)
    cosines = (left * right).sum(axis=1) / np.linalg.norm(left, axis=1) / np.linalg.norm(right, axis=1)
    np.testing.assert_allclose(marks.column("similarity").to_numpy(), cosines, atol=1e-6)
