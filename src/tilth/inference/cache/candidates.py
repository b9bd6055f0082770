"""The nodes from which something can be evicted now, as columns: a victim is an argmin, 50 microseconds for 100,000 nodes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tilth.inference.cache.costs import StateCosts
from tilth.inference.cache.tree import Node


@dataclass(frozen=True, slots=True)
class Worth:
    """What a node's eviction would free, and lose. flops: those that its checkpoint saves beyond the next one above it.

    is_superseded: the conversation went on from here, and the later checkpoint is there.
    """

    n_bytes: int
    flops: float
    is_leaf: bool
    n_children: int
    is_superseded: bool


class Candidates:
    """A table with a row a node; a row that goes is filled by the last."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self._priority = np.zeros(64)
        self._last_use = np.zeros(64)
        self._efficiency = np.zeros(64)
        self._kind = np.zeros(64, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.nodes)

    @property
    def priority(self) -> np.ndarray:
        """What the policy said of each, float64; the lowest goes first."""
        return self._priority[: len(self.nodes)]

    @property
    def last_use(self) -> np.ndarray:
        """When each was used, float64 seconds."""
        return self._last_use[: len(self.nodes)]

    @property
    def efficiency(self) -> np.ndarray:
        """FLOPs saved for each byte that it holds, float64."""
        return self._efficiency[: len(self.nodes)]

    @property
    def kind(self) -> np.ndarray:
        """What a policy said that each is, int64."""
        return self._kind[: len(self.nodes)]

    def put(self, node: Node, priority: float, efficiency: float) -> None:
        """Add or change a row."""
        if node.row < 0:
            node.row = len(self.nodes)
            self.nodes.append(node)
            if node.row == len(self._priority):
                self._grow()
        row = node.row
        self._priority[row], self._efficiency[row] = priority, efficiency
        self._last_use[row], self._kind[row] = node.last_use, node.kind

    def discard(self, node: Node) -> None:
        """Take a row out, if there is one."""
        row = node.row
        if row < 0:
            return
        last = self.nodes.pop()
        if last is not node:
            self.nodes[row], last.row = last, row
            for column in (self._priority, self._last_use, self._efficiency, self._kind):
                column[row] = column[len(self.nodes)]
        node.row = -1

    def lowest(self) -> Node:
        """The node of the lowest priority."""
        return self.nodes[int(self.priority.argmin())]

    def _grow(self) -> None:
        columns = (self._priority, self._last_use, self._efficiency, self._kind)
        doubled = (np.concatenate([column, np.zeros_like(column)]) for column in columns)
        self._priority, self._last_use, self._efficiency, self._kind = doubled


def worth(node: Node, costs: StateCosts) -> Worth | None:
    """What evicting from a node would do; None where nothing of it may go: in use, or keys that others stand on."""
    is_free_leaf = node.is_leaf and not node.locks
    drops_checkpoint = node.has_checkpoint and not node.checkpoint_pins
    if not is_free_leaf and not drops_checkpoint:
        return None
    n_bytes = costs.size_bytes(len(node.edge) if is_free_leaf else 0, 1 if drops_checkpoint else 0)
    return Worth(n_bytes, saved_flops(node, costs), is_free_leaf, len(node.children), is_superseded(node))


def is_superseded(node: Node) -> bool:
    """An earlier checkpoint of a conversation that went on: one child, which has its own, never a branch, reused at most once."""
    child = node.only_child()
    is_link = child is not None and child.has_checkpoint and not node.has_branched
    return is_link and node.has_checkpoint and node.n_uses <= 1


def saved_flops(node: Node, costs: StateCosts) -> float:
    """FLOPs that a hit here saves beyond one at the nearest checkpoint above that is likely to stay."""
    if not node.has_checkpoint:
        return 0.0
    above = node.checkpoint_above()
    return costs.prefill_flops(above.depth if above else 0, node.depth)
