"""All pairs of unit vectors with a cosine of at least a threshold, as clusters and nearest matches.

The vectors are grouped around centres, each with the centre that it has the largest product with. Between the groups of a and
b lies the plane (c_a - c_b) x = 0, and a pair of unit vectors with cosine t is sqrt(2 - 2 t) apart. Where such a pair lies on
both sides of the plane, the distances to it add up to no more than that, so one of the two is within half of it. So each
vector is compared with its own group and with the groups whose plane is as near as that, and no pair is lost.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tilth.dedup.clusters import Clusters
from tilth.dedup.semantic.spherical_k_means import Vectors, centres_of, products_with

Ints = npt.NDArray[np.int64]
_BLOCK = 1024  # vectors at once, against as many: 4 MiB of products
_ROUNDING = 1e-4  # more than float32 products of unit vectors can be off
_DIGITS = 5  # products that agree so far are equally near: the first wins, whatever the processor rounds
_EXACT_AT_ONCE = 1 << 14
_PROBES_AT_ONCE = 1 << 22  # 64 MiB


class SemanticSearch:
    """The search among unit vectors (n, d); afterwards `roots`, `nearest`, `similarity` (0 where nothing matches) and `stats`."""

    def __init__(self, vectors: Vectors, threshold: float) -> None:
        self.vectors, self.threshold = vectors, threshold
        self.clusters = Clusters(np.empty(len(vectors), np.int64))
        self.nearest: Ints = np.arange(len(vectors), dtype=np.int64)
        self.similarity = np.zeros(len(vectors))
        self.n_compared = self.n_probes = self.n_groups = 0

    @property
    def roots(self) -> Ints:
        """The smallest member of each vector's cluster."""
        return self.clusters.roots()

    @property
    def stats(self) -> dict[str, int]:
        """How much work it was: groups of k-means, vectors compared with a group beyond their own, pairs compared."""
        return {"n_groups": self.n_groups, "n_probes": self.n_probes, "n_compared": self.n_compared}

    def run(self, k: int, seed: int, scratch: Path) -> None:
        """Compare all pairs that can match, with k groups; the vectors are written to `scratch` once more, by group."""
        self.n_groups = k
        centres = centres_of(self.vectors, k, seed)
        own = np.concatenate([products.argmax(axis=1) for _, products in products_with(self.vectors, centres)])
        order = np.argsort(own, kind="stable")
        grouped = _write_in_order(self.vectors, order, scratch / "grouped.f32")
        starts = np.searchsorted(own[order], np.arange(k + 1))
        members = [np.arange(starts[group], starts[group + 1]) for group in range(k)]
        for group in range(k):
            self._compare_within(grouped, order, members[group])
        for probing, groups in self._probes(grouped, own[order], centres):
            self.n_probes += len(probing)
            by_group = np.lexsort((order[probing], groups))  # in a group by number, so that the first of equals is first
            probe_starts = np.searchsorted(groups[by_group], np.arange(k + 1))
            for group in np.unique(groups):
                here = probing[by_group[probe_starts[group] : probe_starts[group + 1]]]
                self._compare(grouped, order, here, members[group])
        self._measure()

    def _probes(self, grouped: Vectors, own: Ints, centres: Vectors) -> Iterator[tuple[Ints, Ints]]:
        """Which vectors are near the border of which other group: (positions in `grouped`, groups), a portion at a time."""
        reach = math.sqrt(max(0.0, 2 - 2 * self.threshold)) / 2 + _ROUNDING
        apart = np.sqrt(np.maximum(0, 2 - 2 * (centres @ centres.T)))
        rows, groups, n_held = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], 0
        for first, products in products_with(grouped, centres):
            mine = own[first : first + len(products)]
            behind = products[np.arange(len(products)), mine][:, None] - products
            row, group = np.nonzero(behind <= reach * apart[mine] + _ROUNDING)
            is_other = group != mine[row]
            rows.append(first + row[is_other])
            groups.append(group[is_other])
            n_held += len(rows[-1])
            if n_held >= _PROBES_AT_ONCE:
                yield np.concatenate(rows), np.concatenate(groups)
                rows, groups, n_held = [], [], 0
        if n_held:
            yield np.concatenate(rows), np.concatenate(groups)

    def _compare_within(self, grouped: Vectors, order: Ints, members: Ints) -> None:
        for first in range(0, len(members), _BLOCK):
            block = members[first : first + _BLOCK]
            self._block(grouped, order, block, block)
            self._compare(grouped, order, block, members[first + _BLOCK :])

    def _compare(self, grouped: Vectors, order: Ints, left: Ints, right: Ints) -> None:
        for block in _blocks(left):
            for other in _blocks(right):
                self._block(grouped, order, block, other)

    def _block(self, grouped: Vectors, order: Ints, left: Ints, right: Ints) -> None:
        """Compare positions `left` with positions `right` of `grouped`; where both are the same, each pair is met twice."""
        a, b = np.asarray(grouped[left]), np.asarray(grouped[right])
        products = a @ b.T
        self.n_compared += products.size
        here, there = order[left], order[right]
        products[here[:, None] == there[None, :]] = -1
        if products.max(initial=-1) < self.threshold - _ROUNDING:
            return
        at_edge = np.flatnonzero(np.abs(products - self.threshold) < _ROUNDING)
        rows, columns = np.divmod(at_edge, len(right))
        products.reshape(-1)[at_edge] = cosines(a, b, rows, columns)
        matches = products >= np.float32(self.threshold)
        self._join(here, there, matches)
        products[~matches] = -1
        rounded = np.round(products, _DIGITS)
        self._keep_nearest(here, there[rounded.argmax(axis=1)], rounded.max(axis=1))
        self._keep_nearest(there, here[rounded.argmax(axis=0)], rounded.max(axis=0))

    def _join(self, here: Ints, there: Ints, matches: npt.NDArray[np.bool_]) -> None:
        roots = self.clusters.roots()
        row, column = np.nonzero(matches & (roots[here][:, None] != roots[there][None, :]))
        self.clusters.join(here[row], there[column])

    def _keep_nearest(self, own: Ints, other: Ints, product: Vectors) -> None:
        """A nearer match replaces the one known; of equally near ones the first by number stays."""
        known = self.similarity[own]
        is_better = (product > 0) & ((product > known) | ((product == known) & (other < self.nearest[own])))
        self.nearest[own[is_better]], self.similarity[own[is_better]] = other[is_better], product[is_better]

    def _measure(self) -> None:
        """From the rounded products to the cosines themselves."""
        matched = np.flatnonzero(self.similarity > 0)
        for rows in (matched[first : first + _EXACT_AT_ONCE] for first in range(0, len(matched), _EXACT_AT_ONCE)):
            others = self.nearest[rows]
            self.similarity[rows] = cosines(self.vectors, self.vectors, rows, others)


def cosines(a: Vectors, b: Vectors, rows: Ints, others: Ints) -> npt.NDArray[np.float32]:
    """The cosine of unit vectors a[rows[i]] and b[others[i]] for each i, summed in float64 and rounded once to float32."""
    found = np.empty(len(rows), np.float32)
    for first in range(0, len(rows), _EXACT_AT_ONCE):
        part = slice(first, first + _EXACT_AT_ONCE)
        found[part] = (np.asarray(a[rows[part]], np.float64) * b[others[part]]).sum(axis=1)
    return found


def _blocks(positions: Ints) -> Iterator[Ints]:
    yield from (positions[first : first + _BLOCK] for first in range(0, len(positions), _BLOCK))


def _write_in_order(vectors: Vectors, order: Ints, path: Path) -> Vectors:
    """The rows of `vectors` in `order`, as a file."""
    with open(path, "wb") as file:
        for block in _blocks(order):
            file.write(np.ascontiguousarray(vectors[block]).tobytes())
    return np.memmap(path, np.float32, "r", shape=vectors.shape)
