"""What was evicted is remembered in a bounded number of bytes, however short the pieces are, and forgotten without a rest."""

from __future__ import annotations

import numpy as np
import pytest

from tilth.inference.cache.evicted import MAX_BYTES, MIN_BYTES, EvictedPrefixes
from tilth.inference.cache.tree import Tree


@pytest.mark.parametrize("n_tokens", [1, 3, 500])
def test_nodes_count_as_well_as_tokens(n_tokens: int) -> None:
    evicted, cache = EvictedPrefixes(max_bytes=100_000), Tree()
    draw = np.random.default_rng(0)
    for number in range(2000):
        # one shared token, then pieces of their own: the tree of what is remembered is split again and again
        tokens = np.concatenate([[7], draw.integers(0, 1 << 30, n_tokens)]).astype(np.int32)
        leaf = cache.append(cache.root_node(number), tokens, None)
        leaf.root = "one root"
        evicted.remember(leaf)
        assert evicted.size_bytes <= 100_000
        nodes = list(evicted.tree.nodes())
        assert (len(nodes), sum(len(node.edge) for node in nodes)) == (evicted.tree.n_nodes, evicted.n_tokens)
    assert 20 < evicted.tree.n_nodes < 200
    assert evicted.recall("one root", tokens, 0).n_known == len(tokens)  # the last is remembered
    evicted.clear()
    assert (evicted.n_tokens, evicted.size_bytes) == (0, 0)


def test_a_small_cache_remembers_little() -> None:
    assert [EvictedPrefixes.beside(n).max_bytes for n in (0, 8 << 20, 1 << 40)] == [MIN_BYTES, 8 << 20, MAX_BYTES]
