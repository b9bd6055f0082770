"""Crowds of similar documents cost linear work: comparisons are counted, and time is bounded."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

import pytest

from tilth.dedup.minhash.parameters import MinHashParameters

PARAMETERS = MinHashParameters()
Search = Callable[..., Any]
VOCABULARY = [f"w{number}" for number in range(5000)]


def timed(search: Search, texts: list[str], parameters: MinHashParameters = PARAMETERS) -> tuple[Any, float]:
    start = time.process_time()
    found = search(texts, parameters)
    return found, time.process_time() - start


def templates(n: int, shared: float, seed: int = 0) -> list[str]:
    """Pages of 150 words of which the first part is the same on all."""
    rng = random.Random(seed)
    base = rng.choices(VOCABULARY, k=int(150 * shared))
    return [" ".join(base + rng.choices(VOCABULARY, k=150 - len(base))) for _ in range(n)]


def edited_pages(n: int, n_edits: int) -> list[str]:
    """Copies of one page of 300 words, each with edits of its own."""
    rng = random.Random(2)
    base = rng.choices(VOCABULARY, k=300)
    texts = []
    for _ in range(n):
        words = list(base)
        for place in rng.sample(range(300), n_edits):
            words[place] = rng.choice(VOCABULARY)
        texts.append(" ".join(words))
    return texts


def test_copies_are_not_compared_at_all(search: Search) -> None:
    page = " ".join(random.Random(1).choices(VOCABULARY, k=100))
    found, seconds = timed(search, [page] * 100_000)
    assert len(found.members) == 100_000
    assert {member.root for member in found.members} == {("s", 0)}
    assert {member.similarity for member in found.members} == {1.0}
    assert found.stats["n_compared"] == found.stats["n_texts_read"] == 0
    assert seconds < 60  # about 6 s here, most of it in making the copies


def test_near_copies_form_one_cluster(search: Search) -> None:
    found, seconds = timed(search, templates(4000, 0.9))
    assert len(found.members) == 4000
    assert len(found.clusters()) == 1
    assert found.stats["n_compared"] < 5 * 4000
    assert seconds < 20


@pytest.mark.parametrize("shared", [0.7, 0.8])
def test_crowds_just_below_the_threshold_stay_linear(shared: float, search: Search) -> None:
    counts = {}
    for n in (1000, 2000, 4000):
        found, seconds = timed(search, templates(n, shared))
        assert found.members == []  # Jaccard 0.5 and 0.65
        assert found.stats["n_crowds"] > 0
        most = PARAMETERS.n_bands * (PARAMETERS.n_representatives + 1) * n
        close = PARAMETERS.max_bucket * (PARAMETERS.max_bucket - 1) // 2 * found.stats["n_crowds"]
        assert found.stats["n_compared"] <= most + close
        assert seconds < 30
        counts[n] = found.stats["n_compared"]
    assert counts[4000] < 2.3 * counts[2000]
    assert counts[2000] < 2.5 * counts[1000]


def test_crowds_of_loosely_chained_copies_are_found(search: Search) -> None:
    # Each page has its own few edits, so that most pairs match (0.7 to 0.8) and many do not.
    texts = edited_pages(1000, n_edits=4)
    found, _ = timed(search, texts)
    assert len(found.clusters()) == 1
    assert len(found.members) >= 990
    assert found.stats["n_compared"] < 60 * 1000


def test_pairs_hidden_in_a_crowd_are_found(search: Search) -> None:
    # 1500 pages share a template (Jaccard 0.5); each fifth has one true copy, far away in the list.
    crowd = templates(1500, 0.7, seed=3)
    copies = [text + " end" for text in crowd[::5]]
    found, _ = timed(search, crowd + copies)
    wanted = {*range(0, 1500, 5), *range(1500, 1800)}
    rows = {member.place[1] for member in found.members}
    assert rows <= wanted
    assert len(rows) >= 0.99 * len(wanted)
    assert len(found.clusters()) == len(rows) / 2


def test_several_clusters_in_one_bucket_are_told_apart(search: Search) -> None:
    # One band of one row puts groups that share a template into one bucket; each group is of 40 near copies.
    parameters = MinHashParameters(threshold=0.9, bands=(1, 1))
    texts = [f"{text} {extra}" for text in templates(6, 0.95, seed=4) for extra in range(40)]
    found, _ = timed(search, texts, parameters)
    assert 0 < found.stats["n_crowds"] < 6
    assert len(found.members) >= 230  # a page whose minimum lies in its own last words is in another bucket
    assert len(found.clusters()) == 6
    assert all(len({row // 40 for _, row in cluster}) == 1 for cluster in found.clusters())


def test_clusters_of_crowds_do_not_depend_on_the_order_of_documents(search: Search) -> None:
    # Pages of which some pairs match and many do not, and few representatives: whom they are compared with decides.
    parameters = MinHashParameters(max_bucket=4, n_representatives=1)
    texts = edited_pages(300, n_edits=7)
    found = search(texts, parameters)
    assert found.stats["n_unresolved"] > 0
    expected = {frozenset(texts[row] for _, row in cluster) for cluster in found.clusters()}
    for seed in range(3):
        shuffled = random.Random(seed).sample(texts, len(texts))
        again = search({"a": shuffled[:100], "b": shuffled[100:]}, parameters)
        rows = {"a": shuffled[:100], "b": shuffled[100:]}
        assert {frozenset(rows[shard][row] for shard, row in cluster) for cluster in again.clusters()} == expected
