"""Near-duplicates: MinHash proposes pairs, exact Jaccard similarity decides, connected components make the clusters."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from tilth.dedup.clusters import Clusters
from tilth.dedup.minhash.candidates import HALF, Candidates, Codes
from tilth.dedup.minhash.comparison import PAIR, Comparison, Pairs, ReadTexts
from tilth.dedup.minhash.parameters import MinHashParameters
from tilth.dedup.minhash.signatures import SignedShard
from tilth.dedup.sorted_arrays import distinct
from tilth.dedup.texts.tokens import Ints

_LOW = np.uint64(0xFFFFFFFF)
_PAIRS_AT_ONCE = 1 << 20


class Marks(NamedTuple):
    """The members of clusters of two and more, by number through all shards, ascending: each with the smallest member of its
    cluster, and with the most similar of the documents that it was compared with (of equally similar ones the first).
    """

    documents: Ints
    roots: Ints
    matched: Ints
    similarities: npt.NDArray[np.float32]


class Found(NamedTuple):
    """Marks, every pair that was compared (for the next search), and counts of the work."""

    marks: Marks
    pairs: Pairs
    stats: dict[str, int]


def near_duplicates(
    shards: Sequence[SignedShard],
    candidates: Candidates,
    read_texts: ReadTexts,
    parameters: MinHashParameters,
    standing: Ints,
    folder: Path,
    known: Pairs | None = None,
) -> Found:
    """Clusters of documents whose shingle sets have an exact Jaccard similarity >= the threshold.

    Clusters are the connected components of matches, so two members need not match each other. `candidates` are those of
    all bands, `standing` is what `representatives` gives: documents with equal shingles match the first of them. In a crowd
    each member is compared with the first, those that do not match it with the first of these, and so on up to
    `n_representatives` times; no pair is compared that crowds have put into one cluster. Which documents are in a cluster
    depends neither on the order of the shards nor on `known`, the pairs of an earlier search of the same documents and others,
    which only saves comparing them again; the order says which of equals is named (`roots`, `matched`).

    `folder` takes the shingle sets of candidates while they are compared. Memory: about 140 bytes a document
    with its pairs, as measured at 1 million.
    Raises ContractError if texts are not those that were signed.
    """
    n = len(standing)
    clusters = Clusters(np.lib.format.open_memmap(folder / "parents.npy", mode="w+", dtype=np.int64, shape=(n,)))
    equal = np.flatnonzero((standing >= 0) & (standing != np.arange(n)))
    clusters.join(standing[equal], equal)
    comparison = Comparison(shards, read_texts, parameters.n, parameters.unit, folder, known)
    if known is None:  # else few pairs are open, and which they are shows on the way
        stars = _codes(*_stars(candidates.members, np.diff(candidates.ends)))
        comparison.prepare(np.concatenate([candidates.pairs, stars]))
    n_unresolved = _resolve_crowds(candidates, comparison, clusters, parameters)
    # Which pairs are open is settled before the first of them is compared, so how they are cut changes nothing.
    left, right = _halves(candidates.pairs)
    roots = clusters.roots()
    open_pairs = candidates.pairs[roots[left] != roots[right]]
    for start in range(0, len(open_pairs), _PAIRS_AT_ONCE):
        comparison.similarities(open_pairs[start : start + _PAIRS_AT_ONCE])
    pairs = comparison.pairs()
    matched = pairs[pairs["similarity"] >= np.float32(parameters.threshold)]
    clusters.join(*_halves(matched["code"]))
    stats = {
        "n_documents": n,
        "n_without_shingles": int((standing < 0).sum()),
        "n_equal": len(equal),
        "n_candidates": len(candidates.pairs),
        "n_crowds": len(candidates.ends) - 1,
        "n_unresolved": n_unresolved,
        "n_compared": comparison.n_compared,
        "n_known": comparison.n_known,
        "n_matched": len(matched),
        "n_texts_read": comparison.n_texts_read,
    }
    return Found(_marks(clusters.roots(), standing, equal, matched), pairs, stats)


def _resolve_crowds(candidates: Candidates, comparison: Comparison, clusters: Clusters, parameters: MinHashParameters) -> int:
    """Compare crowds with representatives; returns how many members were left that matched none."""
    members, sizes = candidates.members, np.diff(candidates.ends)
    for _ in range(parameters.n_representatives):
        leader, other = _stars(members, sizes)
        roots = clusters.roots()
        codes = distinct(_codes(leader, other)[roots[leader] != roots[other]])
        for start in range(0, len(codes), _PAIRS_AT_ONCE):
            part = codes[start : start + _PAIRS_AT_ONCE]
            reached = comparison.similarities(part) >= np.float32(parameters.threshold)
            clusters.join(*_halves(part[reached]))
        roots = clusters.roots()
        apart = roots[leader] != roots[other]
        left = np.bincount(np.repeat(np.arange(len(sizes)), sizes - 1)[apart], minlength=len(sizes))
        kept = np.repeat(left >= 2, sizes - 1) & apart
        members, sizes = other[kept], left[left >= 2]
        if not len(sizes):
            return 0
    return len(members)


def _stars(members: Ints, sizes: Ints) -> tuple[Ints, Ints]:
    """The first member of each crowd with each other one."""
    starts = np.cumsum(sizes) - sizes
    is_first = np.zeros(len(members), np.bool_)
    is_first[starts] = True
    return np.repeat(members[starts], sizes - 1), members[~is_first]


def _marks(roots: Ints, standing: Ints, equal: Ints, matched: Pairs) -> Marks:
    sizes = np.bincount(roots, minlength=len(roots))
    documents = np.flatnonzero(sizes[roots] >= 2)
    nearest, best = np.full(len(roots), -1, np.int64), np.zeros(len(roots), np.float32)
    _note_best(matched["code"], matched["similarity"], nearest, best)
    # Equal ones match each other whole: each the first of them, and that one the second.
    nearest[equal], best[equal] = standing[equal], 1.0
    nearest[standing[equal[::-1]]], best[standing[equal]] = equal[::-1], 1.0
    return Marks(documents, roots[documents].copy(), nearest[documents], best[documents])


@njit(cache=True, nogil=True)
def _note_best(codes, similarities, nearest, best):  # type: ignore[no-untyped-def]
    for pair in range(len(codes)):
        left, right, similarity = np.int64(codes[pair] >> HALF), np.int64(codes[pair] & _LOW), similarities[pair]
        for here, there in ((left, right), (right, left)):
            if similarity > best[here] or (similarity == best[here] and there < nearest[here]):
                nearest[here], best[here] = there, similarity


def _codes(one: Ints, other: Ints) -> Codes:
    return (np.minimum(one, other).astype(np.uint64) << HALF) | np.maximum(one, other).astype(np.uint64)


def _halves(codes: Codes) -> tuple[Ints, Ints]:
    return (codes >> HALF).astype(np.int64), (codes & _LOW).astype(np.int64)


def renumbered(pairs: Pairs, numbers: Ints) -> Pairs:
    """Pairs of an earlier search by the numbers of this one: `numbers` gives each document's, -1 where it is gone."""
    left, right = (numbers[half] for half in _halves(pairs["code"]))
    kept = (left >= 0) & (right >= 0)
    left, right = left[kept], right[kept]
    found = np.empty(len(left), PAIR)
    found["code"], found["similarity"] = _codes(left, right), pairs["similarity"][kept]
    return found[np.argsort(found["code"], kind="stable")]
