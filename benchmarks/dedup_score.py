"""How right a set of clusters is, against the true pairs."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from dedup_truth import Ints, Pairs

MARKS = (0.7, 0.8, 0.9)


class Score(NamedTuple):
    """Of clusters at a threshold.

    `recall`: by similarity (at least .7, .8, .9), the share of true pairs whose documents are in one cluster.
    `removal_precision`: of the documents that deduplication would remove (all but one of each cluster), the share with a partner
    in their own cluster that is as similar as the threshold says; `n_removed` of them, where the truth removes `n_true_removed`.
    `n_mixed_clusters`: clusters with documents that no chain of true pairs joins.
    """

    recall: dict[float, float]
    removal_precision: float
    n_removed: int
    n_true_removed: int
    n_mixed_clusters: int
    n_clusters: int

    def words(self) -> str:
        recall = ", ".join(f"{value:.4f} at J >= {mark}" for mark, value in self.recall.items())
        mixed = f"{self.n_mixed_clusters} of {self.n_clusters} clusters join what no chain of true pairs joins"
        return (
            f"pair recall {recall}; removal precision {self.removal_precision:.4f}; {self.n_removed} removed "
            f"(truth {self.n_true_removed}); {mixed}"
        )


def score(pairs: Pairs, clusters: Ints, threshold: float) -> Score:
    """`clusters[i]` is the cluster of document i, -1 where it is in none; every cluster has two members or more."""
    together = (clusters[pairs.left] == clusters[pairs.right]) & (clusters[pairs.left] >= 0)
    recall = {mark: float(together[pairs.similarity >= mark].mean()) for mark in MARKS if (pairs.similarity >= mark).any()}
    true = pairs.at_least(threshold)
    is_right = np.zeros(len(clusters), bool)
    hits = together[pairs.similarity >= threshold]
    is_right[true.left[hits]] = is_right[true.right[hits]] = True
    members = np.flatnonzero(clusters >= 0)
    _, first, numbers = np.unique(clusters[members], return_index=True, return_inverse=True)
    is_removed = np.ones(len(members), bool)
    is_removed[first] = False
    roots = components(len(clusters), true.left, true.right)
    n_roots = np.bincount(np.unique(np.stack([numbers, roots[members]]), axis=1)[0], minlength=len(first))
    n_removed = int(is_removed.sum())
    precision = float(is_right[members[is_removed]].mean()) if n_removed else 1.0
    n_true_removed = len(clusters) - len(np.unique(roots))
    return Score(recall, precision, n_removed, n_true_removed, int((n_roots > 1).sum()), len(first))


def components(n: int, left: Ints, right: Ints) -> Ints:
    """The smallest document of each document's connected component, by union-find over the pairs."""
    parent = list(range(n))

    def root(document: int) -> int:
        while parent[document] != document:
            parent[document] = parent[parent[document]]
            document = parent[document]
        return document

    for one, other in zip(left.tolist(), right.tolist()):
        a, b = root(one), root(other)
        parent[max(a, b)] = min(a, b)
    return np.array([root(document) for document in range(n)], np.int64)


def clusters_by_number(cluster_of: dict[int, object], n: int) -> Ints:
    """Any labels as an array over all documents, without the clusters of one."""
    clusters: npt.NDArray[np.int64] = np.full(n, -1, np.int64)
    labels: dict[object, int] = {}
    for document, label in cluster_of.items():
        clusters[document] = labels.setdefault(label, len(labels))
    sizes = np.bincount(clusters[clusters >= 0], minlength=len(labels))
    if len(labels):
        clusters[(clusters >= 0) & (sizes[clusters] < 2)] = -1
    return clusters
