"""What was here once: the tokens, without keys or states, of prefixes whose state was evicted, in a bounded memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np

from tilth.inference.cache.tree import Node, Tokens, Tree, branch_point, path_to

MIN_BYTES, MAX_BYTES = 2**20, 2**25
TOKEN_BYTES, NODE_BYTES = 4, 640  # of a token of an edge; of a node with its arrays and its place in the order


@dataclass(frozen=True)
class Recalled:
    """n_known tokens of an input were here once; branch_point: where it leaves what was known, 0 where it goes on from an end.

    lost is the deepest state that would have been reused, None if there was none.
    """

    n_known: int
    branch_point: int
    lost: Node | None


class EvictedPrefixes:
    """A radix tree of at most max_bytes, its nodes counted; what was evicted first is forgotten first.

    It serves three ends: a miss can say that it is the eviction's, a branch point is found although its keys are gone, and a
    policy learns what would have been reused had it stayed.
    """

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self.max_bytes, self.n_tokens = max_bytes, 0
        self.tree = Tree()
        self._order: OrderedDict[int, Node] = OrderedDict()

    @classmethod
    def beside(cls, capacity_bytes: int) -> EvictedPrefixes:
        """For a cache of so many bytes: not more than these, 32 MB at most, and 1 MB at least."""
        return cls(min(MAX_BYTES, max(MIN_BYTES, capacity_bytes)))

    @property
    def size_bytes(self) -> int:
        """What is remembered takes about this; it is beside what the ledger counts."""
        return TOKEN_BYTES * self.n_tokens + NODE_BYTES * self.tree.n_nodes

    def remember(self, node: Node) -> None:
        """Call before the checkpoint of `node`, or the leaf, is taken out."""
        tokens = np.concatenate([other.edge for other in path_to(node)])
        walk = self.tree.walk(node.root, tokens)
        if walk.partial is not None:
            end = self.tree.split(walk.partial, walk.n_known)
        else:
            end = walk.nodes[-1] if walk.nodes else self.tree.root_node(node.root)
        if walk.n_known < len(tokens):
            end = self.tree.append(end, tokens[walk.n_known :], None)
            self.n_tokens += len(end.edge)
        end.ticket, end.has_checkpoint, end.is_sampled = node.ticket, node.has_checkpoint, node.is_sampled
        end.has_branched |= node.has_branched
        self._order[id(end)] = end
        self._order.move_to_end(id(end))
        while self.size_bytes > self.max_bytes:
            self._forget(self._order.popitem(last=False)[1])

    def recall(self, root: Hashable, tokens: Tokens, n_reused: int) -> Recalled:
        """What is remembered of `tokens`, of which n_reused come with a state that is still there."""
        walk = self.tree.walk(root, tokens)
        would_do = (node for node in reversed(walk.nodes) if node.has_checkpoint and n_reused < node.depth < len(tokens))
        return Recalled(walk.n_known, branch_point(walk, len(tokens)), next(would_do, None))

    def clear(self, root: Hashable | None = None) -> None:
        """Forget one root, or all."""
        for node in list(self.tree.nodes(root)):
            self._order.pop(id(node), None)
            self.n_tokens -= len(node.edge)
            self.tree.n_nodes -= 1
        for top in [root] if root is not None else list(self.tree.roots):
            self.tree.roots.pop(top, None)

    def _forget(self, node: Node) -> None:
        node.ticket, node.has_checkpoint = -1, False
        # upwards: a node that nothing follows and nobody remembers goes
        while node.parent is not None and node.is_leaf and id(node) not in self._order:
            self.n_tokens -= len(node.edge)
            node = self.tree.remove_leaf(node)
