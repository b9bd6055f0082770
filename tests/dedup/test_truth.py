"""Near-duplicates of thousands of planted documents of every kind, against the exhaustive join of the benchmark."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

N_DOCUMENTS = 4000


class Planted(NamedTuple):
    """Kinds and texts, their true pairs, and what the search found in them; `score` is the benchmark's."""

    kinds: list[str]
    texts: list[str]
    pairs: Any
    found: Any
    score: Callable[..., Any]

    def clusters(self) -> Any:
        """The cluster of each document, -1 for those alone."""
        clusters = np.full(len(self.texts), -1)
        for member in self.found.members:
            clusters[member.place[1]] = member.root[1]
        return clusters


@pytest.fixture(scope="module")
def planted(repository: Path, search: Callable[..., Any]) -> Planted:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(repository / "benchmarks"))
        from dedup_corpus import Corpus
        from dedup_score import score
        from dedup_truth import true_pairs
        from dedup_words import words

    folder = os.environ.get("TILTH_TEST_DATA")
    corpus = Corpus(words(Path(folder) if folder else None), seed=3, mean_words=100, block=200)
    ids, texts = zip(*corpus.documents(N_DOCUMENTS))
    return Planted([name.rpartition("-")[0] for name in ids], list(texts), true_pairs(texts), search(list(texts)), score)


def test_the_corpus_is_as_hard_as_it_says(planted: Planted) -> None:
    below_one = planted.pairs.similarity[planted.pairs.similarity < 1]
    counts = np.histogram(below_one, bins=[0.5, 0.6, 0.7, 0.8, 0.9, 1.0])[0]
    assert counts.min() >= 100
    assert counts.max() <= 5 * counts.min()
    for kind in ("prose", "page", "short", "unspaced", "code"):
        assert planted.kinds.count(kind) > 50
        assert planted.kinds.count(f"{kind}-exact") > 2


def test_the_truth_is_that_of_sets(planted: Planted, true_pairs: Callable[..., Any]) -> None:
    chosen = [number for number, text in enumerate(planted.texts) if text.isascii()][:700]
    expected = {(chosen[a], chosen[b]): value for (a, b), value in true_pairs([planted.texts[i] for i in chosen], 5, 0.5).items()}
    inside = set(chosen)
    entries = zip(planted.pairs.left.tolist(), planted.pairs.right.tolist(), planted.pairs.similarity.tolist())
    assert {(a, b): value for a, b, value in entries if a in inside and b in inside} == expected
    assert len(expected) > 50


def test_recall_and_precision(planted: Planted) -> None:
    found = planted.score(planted.pairs, planted.clusters(), 0.7)
    assert found.recall[0.8] >= 0.990
    assert found.recall[0.7] >= 0.98
    assert found.removal_precision >= 0.998
    assert found.n_mixed_clusters == 0
    assert found.n_removed >= 0.98 * found.n_true_removed


def test_every_match_is_true_to_its_last_digit(planted: Planted) -> None:
    pairs = planted.pairs
    true = {(a, b): value for a, b, value in zip(pairs.left.tolist(), pairs.right.tolist(), pairs.similarity.tolist())}
    assert len(planted.found.members) > 800
    for member in planted.found.members:
        pair = sorted((member.place[1], member.matched[1]))
        assert true[pair[0], pair[1]] >= 0.7
        assert member.similarity == np.float32(true[pair[0], pair[1]])


def test_copies_of_every_kind_are_found(planted: Planted) -> None:
    clusters = planted.clusters()
    n_true, n_found = defaultdict(int), defaultdict(int)
    true = planted.pairs.at_least(0.8)
    for left, right in zip(true.left.tolist(), true.right.tolist()):
        kind = planted.kinds[left].partition("-")[0]
        n_true[kind] += 1
        n_found[kind] += clusters[left] == clusters[right] >= 0
    assert n_true.keys() == {"prose", "page", "short", "unspaced", "code"}
    for kind, n in n_true.items():
        assert n_found[kind] >= 0.97 * n > 10, kind
    pages = [number for number, kind in enumerate(planted.kinds) if kind == "page"]
    assert len({clusters[number] for number in pages if clusters[number] >= 0}) > 5  # a shared frame joins no pages
