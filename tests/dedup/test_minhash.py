"""Near-duplicates against the truth of all pairs: what is found, what is not claimed, and that order never matters."""

from __future__ import annotations

import itertools
import json
import random
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from datasketch import MinHash, MinHashLSH
from hypothesis import given, settings
from hypothesis import strategies as st

from tilth.contracts import DUPLICATES, check
from tilth.dedup.clusters import Clusters
from tilth.dedup.minhash import STATS_KEY, MinHashParameters, minhash_duplicates, signatures
from tilth.dedup.shingles import Shingler
from tilth.dedup.verify import Verifier
from tilth.errors import ContractError

PARAMETERS = MinHashParameters()
Make = Callable[..., pa.Table]
Truth = Callable[[Sequence[str], int, float], dict[tuple[int, int], float]]


def _find(texts: Sequence[str], make: Make, parameters: MinHashParameters = PARAMETERS, **options: Any) -> pa.Table:
    tables = [signatures(make(texts), parameters)]
    return minhash_duplicates(tables, lambda shard, rows: [texts[row] for row in rows], parameters, **options)


def _stats(found: pa.Table) -> dict[str, int]:
    return json.loads(found.schema.metadata[STATS_KEY])


def _components(n: int, pairs: Sequence[tuple[int, int]]) -> list[int]:
    clusters = Clusters(n)
    edges = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    clusters.join(edges[:, 0], edges[:, 1])
    return clusters.roots.tolist()


@pytest.fixture(scope="module")
def found(planted_texts: list[str], make_documents: Make) -> pa.Table:
    return _find(planted_texts, make_documents)


def test_recall_against_all_pairs(found: pa.Table, planted_texts: list[str], true_pairs: Truth) -> None:
    cluster = dict(zip(found.column("row").to_pylist(), found.column("cluster_id").to_pylist()))
    for least, wanted, n_least in ((0.8, 0.99, 150), (0.7, 0.97, 200)):
        pairs = true_pairs(planted_texts, PARAMETERS.n, least)
        assert len(pairs) > n_least
        n_hit = sum(i in cluster and cluster[i] == cluster.get(j) for i, j in pairs)
        assert n_hit >= wanted * len(pairs)


def test_every_claim_is_true(found: pa.Table, planted_texts: list[str], true_pairs: Truth, make_documents: Make) -> None:
    check(found, DUPLICATES)
    pairs = true_pairs(planted_texts, PARAMETERS.n, PARAMETERS.threshold)
    row_of = {identity: row for row, identity in enumerate(make_documents(planted_texts).column("doc_id").to_pylist())}
    true_root = _components(len(planted_texts), list(pairs))
    members = defaultdict(list)
    for entry in found.to_pylist():
        match = row_of[entry["matched_id"]]
        pair = (min(entry["row"], match), max(entry["row"], match))
        assert pairs[pair] >= PARAMETERS.threshold  # verified precision is 1
        assert entry["similarity"] == np.float32(pairs[pair])
        assert true_root[entry["row"]] == true_root[row_of[entry["cluster_id"]]]
        members[entry["cluster_id"]].append(entry)
    for identity, entries in members.items():
        assert len(entries) >= 2
        assert [entry["row"] for entry in entries if entry["is_keeper"]] == [row_of[identity]]
        assert row_of[identity] == min(entry["row"] for entry in entries)


def test_matches_are_the_most_similar(found: pa.Table, planted_texts: list[str], true_pairs: Truth) -> None:
    best: dict[int, float] = defaultdict(float)
    for (i, j), similarity in true_pairs(planted_texts, PARAMETERS.n, PARAMETERS.threshold).items():
        best[i], best[j] = max(best[i], similarity), max(best[j], similarity)
    rows = found.to_pylist()
    n_best = sum(row["similarity"] == np.float32(best[row["row"]]) for row in rows)
    assert n_best >= 0.98 * len(rows)  # the few others were not proposed


def test_recall_is_that_of_an_independent_implementation(found: pa.Table, planted_texts: list[str], true_pairs: Truth) -> None:
    index = MinHashLSH(num_perm=PARAMETERS.n_permutations, params=(PARAMETERS.n_bands, PARAMETERS.n_rows))
    sketches = []
    for row, text in enumerate(planted_texts):
        words = re.findall(r"[a-z0-9_]+", text.lower())
        sketch = MinHash(num_perm=PARAMETERS.n_permutations)
        sketch.update_batch([" ".join(words[i : i + 5]).encode() for i in range(max(1, len(words) - 4))])
        sketches.append(sketch)
        index.insert(row, sketch)
    theirs = {(min(i, j), max(i, j)) for i, sketch in enumerate(sketches) for j in index.query(sketch) if i != j}
    cluster = dict(zip(found.column("row").to_pylist(), found.column("cluster_id").to_pylist()))
    pairs = true_pairs(planted_texts, PARAMETERS.n, PARAMETERS.threshold)
    recall_theirs = len(theirs & pairs.keys()) / len(pairs)
    recall_ours = sum(i in cluster and cluster[i] == cluster.get(j) for i, j in pairs) / len(pairs)
    assert recall_theirs > 0.9
    assert recall_ours >= recall_theirs - 0.01


@pytest.mark.parametrize(("threshold", "n"), [(0.5, 3), (0.9, 8), (1.0, 5)])
def test_other_parameters(threshold: float, n: int, planted_texts: list[str], make_documents: Make, true_pairs: Truth) -> None:
    texts = planted_texts[:500]
    found = _find(texts, make_documents, MinHashParameters(n=n, threshold=threshold))
    pairs = true_pairs(texts, n, threshold)
    roots = _components(len(texts), list(pairs))
    wanted = {row for row in range(len(texts)) if roots.count(roots[row]) > 1}
    rows = set(found.column("row").to_pylist())
    assert rows <= wanted
    assert len(rows) >= 0.97 * len(wanted) > 0


@pytest.fixture(scope="module")
def three_shards(planted_texts: list[str], make_documents: Make) -> tuple[dict[str, list[str]], pa.Table, pa.Table]:
    """Texts of three shards, one of them copied often enough for a large bucket; their signatures and their duplicates."""
    texts = planted_texts[:120] + [planted_texts[0]] * 40
    stored = {shard: texts[part::3] for part, shard in enumerate(["b", "a", "c"])}
    made = pa.concat_tables([signatures(make_documents(part, shard), PARAMETERS) for shard, part in stored.items()])
    found = minhash_duplicates([made], lambda shard, rows: [stored[shard][row] for row in rows], PARAMETERS)
    assert found.num_rows > 40
    assert _stats(found)["n_large_buckets"] > 0
    return stored, made, found


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    cuts=st.lists(st.integers(0, 160), max_size=4),
    max_shingle_bytes=st.sampled_from([1, 10_000, 1 << 30]),
)
def test_order_and_partition_do_not_matter(
    seed: int, cuts: list[int], max_shingle_bytes: int, three_shards: tuple[dict[str, list[str]], pa.Table, pa.Table]
) -> None:
    stored, made, expected = three_shards
    order = random.Random(seed).sample(range(made.num_rows), made.num_rows)
    bounds = [0, *sorted(cuts), made.num_rows]
    pieces = [made.take(pa.array(order[start:end], pa.int64())) for start, end in itertools.pairwise(bounds)]

    def read(shard: str, rows: list[int]) -> list[str]:
        assert rows == sorted(set(rows))
        return [stored[shard][row] for row in rows]

    assert minhash_duplicates(pieces, read, PARAMETERS, max_shingle_bytes) == expected


def test_the_keeper_is_the_first_by_shard_and_row(three_shards: tuple[dict[str, list[str]], pa.Table, pa.Table]) -> None:
    clusters = defaultdict(list)
    for row in three_shards[2].to_pylist():
        clusters[row["cluster_id"]].append(((row["shard"], row["row"]), row["is_keeper"]))
    for members in clusters.values():
        assert [place for place, is_keeper in members if is_keeper] == [min(place for place, _ in members)]


def test_short_and_empty_texts(make_documents: Make) -> None:
    texts = [
        "",
        "one",
        "",
        "!!!",
        "One.",
        "two",
        "one two",
        "two one",
        "!!!",
        "two  ONE",
        "漢",
        "字",
        "漢字漢字漢字",
        "漢 字漢字漢字!",
    ]
    found = _find(texts, make_documents)
    clusters = defaultdict(list)
    for row in found.to_pylist():
        clusters[row["cluster_id"]].append(row["row"])
        assert row["similarity"] == 1.0
    assert sorted(clusters.values()) == [[1, 4], [7, 9], [12, 13]]
    assert _stats(found)["n_without_tokens"] == 4


def test_layout_of_code_does_not_matter(make_documents: Make) -> None:
    code = "def area(width, height):\n    total = width * height\n    return total\n"
    spread = code.replace("\n", "\r\n\r\n").replace("    ", "\t" * 50)
    assert _find([code, spread], make_documents).column("similarity").to_pylist() == [1.0, 1.0]


def test_scripts_without_spaces_are_compared_by_characters(make_documents: Make) -> None:
    base = "人人生而自由在尊严和权利上一律平等他们赋有理性和良心并应以兄弟关系的精神相对待" * 1
    near, far = base.replace("良心", "善心"), "任何人不得加以奴役或奴隶买卖一切形式的奴隶制度和奴隶买卖均应予以禁止"
    found = _find([base, near, far], make_documents)
    assert found.column("row").to_pylist() == [0, 1]
    n_shingles = len(base) - 4
    assert found.column("similarity").to_pylist()[0] == np.float32((n_shingles - 5) / (n_shingles + 5))


def test_chains_join_only_through_true_matches(make_documents: Make, true_pairs: Truth) -> None:
    words = [f"w{i}" for i in range(130)]
    texts = [" ".join(words[start : start + 100]) for start in (0, 10, 20)]
    pairs = true_pairs(texts, 5, 0.7)
    assert list(pairs) == [(0, 1), (1, 2)]  # the ends are less similar
    found = _find(texts, make_documents)
    ids = make_documents(texts).column("doc_id").to_pylist()
    assert found.column("cluster_id").to_pylist() == [ids[0]] * 3
    assert found.column("matched_id").to_pylist() == [ids[1], ids[0], ids[1]]


def test_nothing_in_nothing_out(make_documents: Make) -> None:
    for texts in ([], [""], ["alone"]):
        found = _find(texts, make_documents)
        assert found.num_rows == 0
        check(found, DUPLICATES)
    assert minhash_duplicates([], lambda shard, rows: [], PARAMETERS).num_rows == 0


def test_texts_that_are_not_those_of_the_signatures_are_refused(make_documents: Make) -> None:
    made = [signatures(make_documents(["a b c d e f", "a b c d e f"]), PARAMETERS)]
    with pytest.raises(ContractError, match="not the one"):
        minhash_duplicates(made, lambda shard, rows: ["a b c d e f g h"] * len(rows), PARAMETERS)
    with pytest.raises(ContractError, match="1 came"):
        minhash_duplicates(made, lambda shard, rows: ["a b c d e f"], PARAMETERS)


def test_memory_for_shingles_is_bounded(planted_texts: list[str]) -> None:
    texts = planted_texts[:60]
    sizes = np.array([len(found) for found in Shingler(5).shingle_sets(texts)], dtype=np.int64)
    left, right = (pairs.astype(np.int64) for pairs in np.triu_indices(60, k=1))
    results, n_read, n_kept = [], [], []
    for limit in (1 << 30, 40_000):
        verifier = Verifier(["s"] * 60, np.arange(60), sizes, lambda shard, rows: [texts[row] for row in rows], 5, limit)
        results.append(verifier.similarities(left, right).tolist())
        n_read.append(verifier.n_texts_read)
        n_kept.append(sum(len(found) for found in verifier._sets.values()))
    assert results[0] == results[1]
    assert n_read[0] == 60 < n_read[1]  # what was let go is read again
    assert n_kept[1] * 8 <= 40_000 < n_kept[0] * 8
