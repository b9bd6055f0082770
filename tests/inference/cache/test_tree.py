"""The tree alone: what is put in is found again, however it was split and merged."""

from __future__ import annotations

import numpy as np

from tilth.inference.cache.tree import Tree, branch_point, path_slots, path_to


def tokens(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int32)


def test_a_split_and_the_merge_that_undoes_it_keep_edges_slots_and_depths() -> None:
    tree = Tree()
    leaf = tree.append(tree.root_node("r"), tokens(1, 2, 3, 4), tokens(11, 12, 13, 14))
    upper = tree.split(leaf, 1)
    assert (upper.edge.tolist(), upper.depth, leaf.edge.tolist(), leaf.depth) == ([1], 1, [2, 3, 4], 4)
    assert path_slots(path_to(leaf)).tolist() == [11, 12, 13, 14]
    other = tree.append(upper, tokens(7), tokens(17))
    assert upper.has_branched
    assert path_slots(path_to(other)).tolist() == [11, 17]
    assert tree.remove_leaf(other) is upper
    assert tree.merge_into_child(upper) is leaf
    assert (leaf.edge.tolist(), leaf.slots.tolist(), leaf.depth, tree.n_nodes) == ([1, 2, 3, 4], [11, 12, 13, 14], 4, 1)


def test_a_walk_tells_where_a_path_is_left() -> None:
    tree = Tree()
    leaf = tree.append(tree.root_node("r"), tokens(1, 2, 3), None)
    tree.append(leaf, tokens(4, 5), None)
    for asked, n_known, n_nodes, branch in (
        ([9], 0, 0, 0),
        ([1, 2], 2, 0, 2),
        ([1, 2, 3], 3, 1, 3),
        ([1, 2, 3, 4, 9], 4, 1, 4),
        ([1, 2, 3, 4, 5], 5, 2, 5),
        ([1, 2, 3, 4, 5, 6], 5, 2, 0),
    ):
        walk = tree.walk("r", tokens(*asked))
        assert (walk.n_known, len(walk.nodes), branch_point(walk, len(asked))) == (n_known, n_nodes, branch)
    assert tree.walk("another root", tokens(1, 2, 3)).n_known == 0


def test_arrays_of_the_caller_are_copied_and_short_edges_hold_no_long_ones() -> None:
    tree = Tree()
    mine = tokens(1, 2, 3)
    leaf = tree.append(tree.root_node("r"), mine, mine)
    mine[:] = 0
    upper = tree.split(leaf, 1)
    assert (leaf.edge.tolist(), upper.slots.tolist()) == ([2, 3], [1])
    assert upper.edge.base is None
    assert leaf.edge.base is None


def test_a_chain_of_ten_thousand_nodes_is_no_recursion() -> None:
    tree = Tree()
    node = tree.root_node("r")
    for k in range(10_000):
        node = tree.append(node, tokens(k), None)
    walk = tree.walk("r", np.arange(10_001, dtype=np.int32))
    assert (len(walk.nodes), walk.n_known, len(path_to(node)), sum(1 for _ in tree.nodes())) == (10_000,) * 4
    while tree.n_nodes:
        node = tree.remove_leaf(node)
    assert not tree.roots
