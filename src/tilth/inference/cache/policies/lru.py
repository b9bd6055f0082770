"""The least recently used goes first."""

from __future__ import annotations

from tilth.inference.cache.admission import AS_PUBLISHED
from tilth.inference.cache.candidates import Worth
from tilth.inference.cache.policies.policy import LAST, Policy
from tilth.inference.cache.tree import Node


class LRU(Policy):
    """By the last use. Nodes with several children go last: what follows them needs their keys anyway.

    only_leaves: a state within a path goes when all that follows it has gone, as in caches for attention; touches_path: a hit
    refreshes the whole path. Both on are the paper's SGLang+ (arXiv 2411.19379); the default refreshes only the used state.
    """

    admission = AS_PUBLISHED

    def __init__(self, only_leaves: bool = False, touches_path: bool = False) -> None:
        self.only_leaves, self.touches_path = only_leaves, touches_path
        self.name = "lru-leaves" if only_leaves else "lru"

    def priority(self, node: Node, worth: Worth) -> float:
        """The count of uses at its last one."""
        is_late = worth.n_children > 1 or (self.only_leaves and not worth.is_leaf)
        return node.tick + (LAST if is_late else 0.0)
