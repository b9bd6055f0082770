"""k-means on the unit sphere over vectors on the disk: seeded mini-batches, a bounded number of rows in memory."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

N_BATCHES = 24
_ROWS_PER_CENTRE = 8  # of a batch
_PRODUCTS_AT_ONCE = 1 << 22  # 16 MiB of float32


def centres_of(vectors: Vectors, k: int, seed: int) -> Vectors:
    """Return k unit vectors (k, d) that lie in the middle of groups of the unit vectors (n, d), for 1 <= k <= n.

    Mini-batch k-means (Sculley 2010) from k rows drawn without replacement; a centre moves towards the mean of its rows in
    a batch with a step that falls with the rows that it has seen. Only the speed of what is built on it depends on it.
    """
    chance = np.random.default_rng(seed)
    n = len(vectors)
    centres = np.array(vectors[np.sort(chance.choice(n, k, replace=False))], np.float32)
    seen = np.ones(k)
    n_rows = min(n, max(1024, _ROWS_PER_CENTRE * k))
    for _ in range(N_BATCHES if k > 1 else 0):
        batch = np.array(vectors[np.sort(chance.choice(n, n_rows, replace=False))])
        nearest = np.concatenate([products.argmax(axis=1) for _, products in products_with(batch, centres)])
        order = np.argsort(nearest, kind="stable")
        found, starts, counts = np.unique(nearest[order], return_index=True, return_counts=True)
        sums = np.add.reduceat(batch[order].astype(np.float64), starts, axis=0)
        seen[found] += counts
        moved = centres[found] + (sums - counts[:, None] * centres[found]) / seen[found, None]
        lengths = np.linalg.norm(moved, axis=1)
        has_direction = lengths > 0  # opposite rows can cancel out; such a centre stays
        centres[found[has_direction]] = (moved[has_direction] / lengths[has_direction, None]).astype(np.float32)
    return centres


def products_with(vectors: Vectors, centres: Vectors) -> Iterator[tuple[int, Vectors]]:
    """Scalar products of the vectors (n, d) with the centres (k, d), in blocks: (first row, products (rows, k))."""
    step = max(1, _PRODUCTS_AT_ONCE // max(len(centres), vectors.shape[1]))
    for first in range(0, len(vectors), step):
        yield first, np.asarray(vectors[first : first + step]) @ centres.T
