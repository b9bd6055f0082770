"""Semantic duplicates against brute force: every pair is found, whatever the groups, the order and the copies."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tilth.contracts import uuid_array, uuid_bytes
from tilth.dedup.semantic import pairs, spherical_k_means
from tilth.dedup.semantic.duplicates import STATS_KEY, Semantic, semantic_duplicates
from tilth.dedup.semantic.embedding_files import open_embeddings
from tilth.dedup.semantic.hashed_ngrams import HashedNgrams
from tilth.errors import ContractError, RecipeError, SourceError, TilthError

REUSE = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
EMBED = HashedNgrams(64)


def corpus(n: int) -> pa.Table:
    shards = [f"web/{number % 3:05}" for number in range(n)]
    rows = [number // 3 for number in range(n)]
    ids = [number.to_bytes(16, "big") for number in range(n)]
    return pa.table({"doc_id": uuid_array(ids), "shard": shards, "row": pa.array(rows, pa.int32())})


def cloud(n: int, d: int, seed: int, spread: float = 0.25) -> np.ndarray:
    """Groups of near vectors, some of them equal, in no order."""
    chance = np.random.default_rng(seed)
    middles = chance.standard_normal((max(1, n // 4), d))
    middles /= np.linalg.norm(middles, axis=1, keepdims=True)
    found = middles[chance.integers(0, len(middles), n)] + spread * chance.standard_normal((n, d)) / np.sqrt(d)
    copies = chance.integers(0, n, n)
    is_copy = chance.random(n) < 0.15
    found[is_copy] = found[copies[is_copy]]
    return found.astype(np.float32)


def found_in(table: pa.Table) -> dict[int, tuple[int, bool, int, float]]:
    ids = [
        [int.from_bytes(one, "big") for one in uuid_bytes(table.column(name))] for name in ("doc_id", "cluster_id", "matched_id")
    ]
    rest = zip(table.column("is_keeper").to_pylist(), table.column("similarity").to_pylist(), strict=True)
    return {
        doc: (cluster, keeper, matched, similarity)
        for doc, cluster, matched, (keeper, similarity) in zip(*ids, rest, strict=True)
    }


def brute_force(vectors: np.ndarray, threshold: float, documents: pa.Table) -> tuple[dict[int, int], np.ndarray]:
    """Cluster of each document (the first by shard and row), and all cosines in float64."""
    units = vectors.astype(np.float64)
    lengths = np.linalg.norm(units, axis=1, keepdims=True)
    units = np.divide(units, lengths, where=lengths > 0, out=np.zeros_like(units)).astype(np.float32).astype(np.float64)
    cosines = (units @ units.T).astype(np.float32)
    order = sorted(range(len(vectors)), key=lambda i: (documents["shard"][i].as_py(), documents["row"][i].as_py()))
    rank = {document: place for place, document in enumerate(order)}
    root = list(range(len(vectors)))

    def find(i: int) -> int:
        while root[i] != i:
            i = root[i]
        return i

    for i, j in zip(*np.nonzero(np.triu(cosines >= np.float32(threshold), 1)), strict=True):
        a, b = sorted((find(int(i)), find(int(j))), key=rank.__getitem__)
        root[b] = a
    return {i: find(i) for i in range(len(vectors))}, cosines


@REUSE
@given(
    n=st.integers(2, 120),
    seed=st.integers(0, 999),
    threshold=st.sampled_from([0.3, 0.8, 0.9, 0.97, 0.999]),
    k=st.integers(1, 40),
    block=st.sampled_from([3, 16, 1024]),
)
def test_clusters_and_matches_are_those_of_brute_force(
    n: int, seed: int, threshold: float, k: int, block: int, tmp_path: Path
) -> None:
    vectors, documents = cloud(n, 12, seed), corpus(n)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pairs, "_BLOCK", block)
        patch.setattr(pairs, "_PROBES_AT_ONCE", block)
        patch.setattr(spherical_k_means, "_PRODUCTS_AT_ONCE", 8 * block)
        parameters = Semantic(EMBED, threshold, n_clusters=k, seed=seed)
        found = found_in(semantic_duplicates(documents, vectors.__getitem__, parameters, tmp_path))
    clusters, cosines = brute_force(vectors, threshold, documents)
    np.fill_diagonal(cosines, -1)
    sizes = np.bincount(list(clusters.values()), minlength=n)
    assert found.keys() == {i for i in range(n) if sizes[clusters[i]] > 1}
    for document, (cluster, is_keeper, matched, similarity) in found.items():
        assert cluster == clusters[document]
        assert is_keeper == (cluster == document)
        assert similarity == pytest.approx(cosines[document, matched], abs=1e-6)
        assert cosines[document].max() - similarity <= 2e-5
        assert similarity >= np.float32(threshold) - 1e-6


@REUSE
@given(n=st.integers(2, 60), seed=st.integers(0, 99))
def test_the_order_of_documents_changes_nothing(n: int, seed: int, tmp_path: Path) -> None:
    vectors, documents = cloud(n, 8, seed), corpus(n)
    parameters = Semantic(EMBED, 0.9)
    shuffled = np.random.default_rng(seed).permutation(n)
    first = semantic_duplicates(documents, vectors.__getitem__, parameters, tmp_path)
    again = semantic_duplicates(documents.take(shuffled), vectors[shuffled].__getitem__, parameters, tmp_path)
    assert first.equals(again, check_metadata=True)


def test_many_copies_of_one_page_are_compared_once(tmp_path: Path) -> None:
    n = 20_000
    vectors = np.tile(cloud(2, 16, 0)[:1], (n, 1))
    vectors[7] = -vectors[7]
    vectors[8] = 0
    table = semantic_duplicates(corpus(n), vectors.__getitem__, Semantic(EMBED, 0.9), tmp_path)
    stats = json.loads(table.schema.metadata[STATS_KEY])
    assert table.num_rows == n - 2
    assert sum(table.column("is_keeper").to_pylist()) == 1
    assert stats["n_distinct"] == 2
    assert stats["n_without_direction"] == 1
    assert stats["n_compared"] < 100


def test_no_document_and_no_direction(tmp_path: Path) -> None:
    for n in (0, 3):
        vectors = np.zeros((n, 4), np.float32)
        assert semantic_duplicates(corpus(n), vectors.__getitem__, Semantic(EMBED), tmp_path).num_rows == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_no_number_is_refused_by_name(bad: float, tmp_path: Path) -> None:
    vectors = np.ones((7, 4), np.float32)
    vectors[4, 2] = bad
    with pytest.raises(ContractError, match="no numbers") as caught:
        semantic_duplicates(corpus(7), vectors.__getitem__, Semantic(EMBED), tmp_path)
    assert caught.value.where == "web/00001:1"


def test_vectors_of_another_shape_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match="shape"):
        semantic_duplicates(corpus(3), lambda rows: np.ones((2, 4)), Semantic(EMBED), tmp_path)


@pytest.mark.parametrize("fields", [{"threshold": 0.0}, {"threshold": 1.5}, {"n_clusters": 0}, {"embeddings": 7}])
def test_parameters_that_cannot_be(fields: dict[str, Any]) -> None:
    with pytest.raises(RecipeError):
        Semantic(**{"embeddings": EMBED, **fields})


def save(path: Path, documents: pa.Table, vectors: np.ndarray, key: str) -> None:
    flat = pa.array(vectors.reshape(-1))
    embedding = pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
    hexadecimal = [one.hex() for one in uuid_bytes(documents.column("doc_id"))]
    columns = {
        "uuid": {"doc_id": documents.column("doc_id")},
        "text": {"doc_id": [f"{one[:8]}-{one[8:]}".upper() for one in hexadecimal]},
        "bytes": {"doc_id": uuid_bytes(documents.column("doc_id"))},
        "place": {"shard": documents.column("shard"), "row": documents.column("row")},
    }[key]
    kind = embedding if key != "text" else embedding.cast(pa.list_(pa.float32()))
    pq.write_table(pa.table({**columns, "embedding": kind}), path)


@pytest.mark.parametrize("key", ["uuid", "text", "bytes", "place"])
def test_a_parquet_file_in_any_order(key: str, tmp_path: Path) -> None:
    documents, vectors = corpus(50), cloud(50, 6, 1)
    shuffled = np.random.default_rng(0).permutation(50)
    extra = pa.concat_tables([documents.take(shuffled), corpus(51).slice(50)])
    save(tmp_path / "vectors.parquet", extra, np.concatenate([vectors[shuffled], vectors[:1]]), key)
    read = open_embeddings(tmp_path / "vectors.parquet", documents, tmp_path)
    rows = np.array([3, 0, 49])
    np.testing.assert_array_equal(read(rows), vectors[rows])


def test_an_array_is_in_the_order_of_shard_and_row(tmp_path: Path) -> None:
    documents = corpus(7)
    places = sorted(range(7), key=lambda i: (documents["shard"][i].as_py(), documents["row"][i].as_py()))
    np.save(tmp_path / "vectors.npy", np.array([[place, 1] for place in places], np.float32))
    read = open_embeddings(tmp_path / "vectors.npy", documents, tmp_path)
    assert read(np.arange(7))[:, 0].tolist() == list(range(7))


def _write_npy(folder: Path, array: np.ndarray) -> Path:
    np.save(folder / "vectors.npy", array)
    return folder / "vectors.npy"


def _write_parquet(folder: Path, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), folder / "vectors.parquet")
    return folder / "vectors.parquet"


PLACES = {"shard": ["web/00000", "web/00001"], "row": [0, 0]}
MISTAKES: dict[str, tuple[Callable[[Path], Path], type[TilthError], str]] = {
    "no file": (lambda folder: folder / "none.npy", SourceError, "not there"),
    "another format": (lambda folder: Path(__file__), SourceError, "`.py` is no format"),
    "another number of rows": (lambda folder: _write_npy(folder, np.ones((3, 4))), ContractError, "2 documents"),
    "no matrix": (lambda folder: _write_npy(folder, np.ones(2)), ContractError, "shape"),
    "objects": (lambda folder: _write_npy(folder, np.array([{}, {}])), SourceError, "cannot be read"),
    "no key": (lambda folder: _write_parquet(folder, embedding=[[1.0]]), ContractError, "no column `shard`"),
    "no embedding": (lambda folder: _write_parquet(folder, **PLACES), ContractError, "no column `embedding`"),
    "numbers": (lambda folder: _write_parquet(folder, **PLACES, embedding=[1.0, 2.0]), ContractError, "`embedding` is double"),
    "widths": (lambda folder: _write_parquet(folder, **PLACES, embedding=[[1.0], [1.0, 2.0]]), ContractError, "differ in width"),
    "one lacks": (
        lambda folder: _write_parquet(folder, shard=["web/00000"], row=[0], embedding=[[1.0]]),
        ContractError,
        "1 of 2 documents have no embedding",
    ),
    "twice": (
        lambda folder: _write_parquet(folder, shard=["a", "a"], row=[0, 0], embedding=[[1.0], [1.0]]),
        ContractError,
        "1 documents have several",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_files_that_do_not_fit(name: str, tmp_path: Path) -> None:
    make, error, message = MISTAKES[name]
    with pytest.raises(error, match=message):
        open_embeddings(make(tmp_path), corpus(2), tmp_path)


def test_hashed_ngrams_tell_wordings_apart() -> None:
    chance = np.random.default_rng(0)
    words = ["soil", "seed", "plough", "harvest", "meadow", "rain", "barn", "clover", "rye", "frost", "wind", "hedge"]
    text = " ".join(chance.choice(words, 300))
    texts = [text, text.upper().replace(" ", "\n "), text.replace("soil", "sand", 3), "1 2 3 4 5 6 7 8 9 10 11 12", "", "abc"]
    vectors = HashedNgrams(256)(texts)
    assert vectors.dtype == np.float32
    assert not vectors[4:].any()
    units = vectors[:4] / np.linalg.norm(vectors[:4], axis=1, keepdims=True)
    cosines = units @ units.T
    assert cosines[0, 1] == pytest.approx(1, abs=1e-6)
    assert 0.97 < cosines[0, 2] < 1
    assert abs(cosines[0, 3]) < 0.3
