"""A radix tree over tokens: keys and values by edge, recurrent states by node; it knows nothing of bytes, users or policies."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

Tokens = NDArray[np.int32]
Slots = NDArray[np.int32]

NO_TOKENS: Tokens = np.zeros(0, dtype=np.int32)


class Node:
    """The end of an edge, and the place of a checkpoint. A root has an empty edge and no parent.

    edge and slots (or None) are int32 arrays of one length; depth is the number of tokens from the root to the edge's end.
    Neither a split nor a merge changes the depth of a node that somebody holds.
    """

    __slots__ = (
        "checkpoint",
        "checkpoint_pins",
        "children",
        "credit",
        "depth",
        "edge",
        "follows_cut",
        "frequency",
        "has_branched",
        "has_checkpoint",
        "is_sampled",
        "kind",
        "last_use",
        "locks",
        "n_uses",
        "parent",
        "root",
        "row",
        "slots",
        "tick",
        "ticket",
    )

    def __init__(self, root: Hashable, parent: Node | None, edge: Tokens, slots: Slots | None) -> None:
        self.root, self.parent, self.edge, self.slots = root, parent, edge, slots
        self.depth: int = len(edge) + (parent.depth if parent else 0)
        self.children: dict[int, Node] = {}  # by the first token of their edges
        self.checkpoint: Any = None
        self.has_checkpoint = False
        self.locks = 0  # requests in flight whose path goes through here or ends here
        self.checkpoint_pins = 0  # requests that are reading the checkpoint
        self.last_use = 0.0  # when the checkpoint was last reused, or came: seconds
        self.tick = 0  # and the same as a count of the cache's uses, so that equal times keep their order
        self.n_uses = 0  # how often the checkpoint was reused
        self.frequency = 1  # the same, counted along a conversation
        self.follows_cut = False  # the request that wrote it left a known path
        self.has_branched = False  # had two children at any time
        self.credit = 0.0  # a policy's own
        self.kind = 0  # a policy's own
        self.ticket = -1  # a policy's own, remembered when the node is evicted
        self.is_sampled: bool | None = None  # a policy's own, remembered likewise
        self.row = -1  # among the candidates for eviction

    @property
    def is_leaf(self) -> bool:
        """Nothing follows."""
        return not self.children

    @property
    def start(self) -> int:
        """Tokens before the edge."""
        return self.depth - len(self.edge)

    def only_child(self) -> Node | None:
        """The child of a node that has one."""
        return next(iter(self.children.values())) if len(self.children) == 1 else None

    def checkpoint_above(self) -> Node | None:
        """The nearest ancestor with a checkpoint."""
        node = self.parent
        while node is not None and not node.has_checkpoint:
            node = node.parent
        return node


class Walk:
    """How far the tree knows some tokens: nodes whose edges match whole, from the top, and the one that matches in part."""

    __slots__ = ("n_known", "nodes", "partial")

    def __init__(self, nodes: list[Node], n_known: int, partial: Node | None) -> None:
        self.nodes, self.n_known, self.partial = nodes, n_known, partial


class Tree:
    """One tree a root. A split keeps the lower node and makes an upper one; a merge keeps the lower one."""

    def __init__(self) -> None:
        self.roots: dict[Hashable, Node] = {}
        self.n_nodes = 0

    def walk(self, root: Hashable, tokens: Tokens) -> Walk:
        """Follow `tokens` as far as they are known."""
        nodes: list[Node] = []
        node, position = self.roots.get(root), 0
        while node is not None and position < len(tokens):
            child = node.children.get(int(tokens[position]))
            if child is None:
                break
            n_same = common_length(child.edge, tokens[position:])
            position += n_same
            if n_same < len(child.edge):
                return Walk(nodes, position, child)
            nodes.append(child)
            node = child
        return Walk(nodes, position, None)

    def root_node(self, root: Hashable) -> Node:
        """The top of a root's tree, made where there is none."""
        if root not in self.roots:
            self.roots[root] = Node(root, None, NO_TOKENS, None)
        return self.roots[root]

    def append(self, parent: Node, edge: Tokens, slots: Slots | None) -> Node:
        """A new leaf. The arrays are copied: the caller may go on writing to its own."""
        node = Node(parent.root, parent, edge.copy(), None if slots is None else slots.copy())
        parent.children[int(edge[0])] = node
        parent.has_branched |= len(parent.children) > 1
        self.n_nodes += 1
        return node

    def split(self, node: Node, depth: int) -> Node:
        """Cut the edge of `node` at `depth`, which lies within it; returns the new node there. `node` stays the lower part."""
        assert node.parent is not None
        assert node.start < depth < node.depth
        n_upper, slots = depth - node.start, node.slots
        upper = Node(node.root, node.parent, node.edge[:n_upper].copy(), None if slots is None else slots[:n_upper].copy())
        upper.last_use, upper.tick, upper.frequency, upper.locks = node.last_use, node.tick, node.frequency, node.locks
        node.parent.children[int(upper.edge[0])] = upper
        # copies, not views: a view of few tokens would keep the memory of all
        node.edge, node.slots = node.edge[n_upper:].copy(), None if slots is None else slots[n_upper:].copy()
        node.parent, upper.children = upper, {int(node.edge[0]): node}
        self.n_nodes += 1
        return upper

    def merge_into_child(self, node: Node) -> Node:
        """Give the edge of a node without a checkpoint to its only child, which is returned; `node` is gone."""
        child, parent = node.only_child(), node.parent
        assert child is not None
        assert parent is not None
        child.edge = np.concatenate([node.edge, child.edge])
        if node.slots is not None and child.slots is not None:
            child.slots = np.concatenate([node.slots, child.slots])
        child.parent = parent
        parent.children[int(child.edge[0])] = child
        node.parent, node.children = None, {}
        self.n_nodes -= 1
        return child

    def remove_leaf(self, node: Node) -> Node:
        """Take a leaf out; returns its parent. A root without children goes, too."""
        parent = node.parent
        assert parent is not None
        assert not node.children
        del parent.children[int(node.edge[0])]
        node.parent = None
        self.n_nodes -= 1
        if parent.parent is None and not parent.children:
            del self.roots[parent.root]
        return parent

    def nodes(self, root: Hashable | None = None) -> Iterator[Node]:
        """All nodes but the roots, parents first: of one root, or of all."""
        tops = self.roots.values() if root is None else [self.roots[root]] if root in self.roots else []
        stack = [child for top in tops for child in top.children.values()]
        while stack:
            node = stack.pop()
            yield node
            stack.extend(node.children.values())


def branch_point(walk: Walk, n_tokens: int) -> int:
    """Where the n_tokens that were walked leave a path that goes on otherwise, or end on it; 0 where they go on from its end."""
    is_at_an_end = walk.partial is None and not (walk.nodes and walk.nodes[-1].children)
    return 0 if is_at_an_end and walk.n_known < n_tokens else walk.n_known


def path_to(node: Node | None) -> list[Node]:
    """The nodes from the top down to `node`, without the root; of None and of a root, none."""
    nodes = []
    while node is not None and node.parent is not None:
        nodes.append(node)
        node = node.parent
    return nodes[::-1]


def path_slots(nodes: list[Node]) -> Slots | None:
    """The slots of all tokens of a path from the top, (N,) int32; None where none are kept."""
    if not nodes or nodes[0].slots is None:
        return None
    return np.concatenate([node.slots for node in nodes if node.slots is not None])


def common_length(a: Tokens, b: Tokens) -> int:
    """Tokens at the beginning that two arrays have in common."""
    n = min(len(a), len(b))
    if not n:
        return 0
    differs = a[:n] != b[:n]
    first = int(differs.argmax())
    return first if differs[first] else n
