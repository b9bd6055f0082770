"""Crowds of similar documents cost linear work: comparisons are counted, and time is bounded."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Sequence

import pyarrow as pa
import pytest

from tilth.dedup.minhash import STATS_KEY, MinHashParameters, minhash_duplicates, signatures

PARAMETERS = MinHashParameters()
Make = Callable[..., pa.Table]
VOCABULARY = [f"w{number}" for number in range(5000)]


def _find(texts: Sequence[str], make: Make) -> tuple[pa.Table, dict[str, int], float]:
    made = signatures(make(texts), PARAMETERS)
    start = time.process_time()
    found = minhash_duplicates([made], lambda shard, rows: [texts[row] for row in rows], PARAMETERS)
    return found, json.loads(found.schema.metadata[STATS_KEY]), time.process_time() - start


def _templates(n: int, shared: float, seed: int = 0) -> list[str]:
    """Pages of 150 words of which the first part is the same on all."""
    rng = random.Random(seed)
    base = rng.choices(VOCABULARY, k=int(150 * shared))
    return [" ".join(base + rng.choices(VOCABULARY, k=150 - len(base))) for _ in range(n)]


def test_copies_are_compared_once_each(make_documents: Make) -> None:
    page = " ".join(random.Random(1).choices(VOCABULARY, k=100))
    found, stats, seconds = _find([page] * 20_000, make_documents)
    assert found.num_rows == 20_000
    assert found.column("is_keeper").to_pylist().count(True) == 1
    assert stats["n_compared"] == 19_999
    assert stats["n_texts_read"] == 20_000
    assert seconds < 20  # about 0.6 s here


def test_near_copies_form_one_cluster(make_documents: Make) -> None:
    found, stats, seconds = _find(_templates(4000, 0.9), make_documents)
    assert found.num_rows == 4000
    assert len(set(found.column("cluster_id").to_pylist())) == 1
    assert stats["n_compared"] < 5 * 4000
    assert seconds < 20


@pytest.mark.parametrize("shared", [0.7, 0.8])
def test_crowds_just_below_the_threshold_stay_linear(shared: float, make_documents: Make) -> None:
    counts = {}
    for n in (1000, 2000, 4000):
        found, stats, seconds = _find(_templates(n, shared), make_documents)
        assert found.num_rows == 0  # Jaccard 0.5 and 0.65
        assert stats["n_large_buckets"] > 0
        assert stats["n_compared"] <= PARAMETERS.n_bands * (PARAMETERS.n_representatives + 1) * n
        assert seconds < 30
        counts[n] = stats["n_compared"]
    assert counts[4000] < 2.3 * counts[2000]
    assert counts[2000] < 2.5 * counts[1000]


def test_crowds_of_loosely_chained_copies_are_found(make_documents: Make) -> None:
    # Each page has its own few edits, so that most pairs match (0.7 to 0.8) and many do not.
    rng = random.Random(2)
    base = rng.choices(VOCABULARY, k=300)
    texts = []
    for _ in range(1000):
        words = list(base)
        for place in rng.sample(range(300), 4):
            words[place] = rng.choice(VOCABULARY)
        texts.append(" ".join(words))
    found, stats, _ = _find(texts, make_documents)
    assert len(set(found.column("cluster_id").to_pylist())) == 1
    assert found.num_rows >= 990
    assert stats["n_compared"] < 60 * 1000


def test_pairs_hidden_in_a_crowd_are_found(make_documents: Make) -> None:
    # 1500 pages share a template (Jaccard 0.5); each fifth has one true copy, far away in the list.
    crowd = _templates(1500, 0.7, seed=3)
    copies = [text + " end" for text in crowd[::5]]
    found, _, _ = _find(crowd + copies, make_documents)
    wanted = {*range(0, 1500, 5), *range(1500, 1800)}
    rows = set(found.column("row").to_pylist())
    assert rows <= wanted
    assert len(rows) >= 0.99 * len(wanted)
    assert len(set(found.column("cluster_id").to_pylist())) == len(rows) / 2


def test_several_clusters_in_one_bucket_are_told_apart(make_documents: Make) -> None:
    # One band of one row puts groups that share a template into one bucket; each group is of 40 copies.
    parameters = MinHashParameters(threshold=0.9, recall=0.5, max_permutations=1)
    texts = [text for text in _templates(6, 0.95, seed=4) for _ in range(40)]
    found = minhash_duplicates(
        [signatures(make_documents(texts), parameters)], lambda _, rows: [texts[row] for row in rows], parameters
    )
    stats = json.loads(found.schema.metadata[STATS_KEY])
    assert stats["n_large_buckets"] < 6
    assert found.num_rows == 240
    roots = [row - row % 40 for row in range(240)]
    ids = make_documents(texts).column("doc_id").to_pylist()
    assert found.column("cluster_id").to_pylist() == [ids[root] for root in roots]
