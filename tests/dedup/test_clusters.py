"""Connected components against a plain search, for any order of the edges, in memory and on disk."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tilth.dedup.clusters import Clusters

N = 12
EDGES = st.lists(st.tuples(st.integers(0, N - 1), st.integers(0, N - 1)), max_size=20)


def _search(edges: list[tuple[int, int]]) -> list[int]:
    """Smallest member reachable from each node."""
    roots = list(range(N))
    for _ in range(N):
        for a, b in edges:
            roots[a] = roots[b] = min(roots[a], roots[b])
    return roots


@settings(max_examples=200, deadline=None)
@given(EDGES, st.integers(0, 20), st.randoms())
def test_roots_are_the_smallest_members(edges: list[tuple[int, int]], cut: int, rng: random.Random) -> None:
    shuffled = list(edges)
    rng.shuffle(shuffled)
    clusters = Clusters(np.empty(N, np.int64))
    for part in (shuffled[:cut], shuffled[cut:]):
        pairs = np.array(part, dtype=np.int64).reshape(-1, 2)
        clusters.join(pairs[:, 0], pairs[:, 1])
        clusters.roots()
    assert clusters.roots().tolist() == _search(edges)


def test_a_long_chain_is_joined_in_little_time(tmp_path: Path) -> None:
    order = np.random.default_rng(0).permutation(200_000)
    parents = np.lib.format.open_memmap(tmp_path / "parents.npy", mode="w+", dtype=np.int64, shape=(200_000,))
    clusters = Clusters(parents)
    clusters.join(order[:-1], order[1:])
    assert not clusters.roots().any()
