"""The paper's vLLM+ (arXiv 2411.19379): keys, values and a recurrent state for every block of 32 tokens, least recently used out.

What block-wise engines did when they first met recurrent layers, under a cap that holds: here as a baseline, of bytes alone.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tilth.inference.cache.costs import StateCosts

BLOCK = 32

_Key = tuple[Hashable, bytes]  # the block before, or the root; the tokens of this one


@dataclass
class BlockMatch:
    """n_tokens are reused; blocks are those that the request keeps until release, from the first on."""

    root: Hashable
    n_tokens: int
    blocks: list[int] = field(default_factory=list)
    cut: int | None = None


class BlockCache:
    """The three calls of a PrefixCache over blocks. Every hit is a whole number of blocks, and leaves a token to read."""

    def __init__(self, costs: StateCosts, capacity_bytes: int, block: int = BLOCK) -> None:
        self.block, self.block_bytes, self.capacity_bytes = block, costs.size_bytes(block, 1), capacity_bytes
        self.n_evicted = 0
        self._ids: dict[_Key, int] = {}
        self._keys: dict[int, _Key] = {}
        self._n_users: dict[int, int] = {}
        # Nobody's blocks, the least recent first. A path comes back last block first, so the first here is always a leaf.
        self._unused: OrderedDict[int, None] = OrderedDict()
        self._n_made = 0

    @property
    def used_bytes(self) -> int:
        """Bytes of all blocks that are kept."""
        return self.block_bytes * len(self._ids)

    def match(self, root: Hashable, tokens: np.ndarray, now: float) -> BlockMatch:
        """The blocks that `tokens` (N,) int32 begin with, kept until release."""
        match = BlockMatch(root, 0)
        self._extend(match, tokens[:-1], may_add=False)
        match.n_tokens = len(match.blocks) * self.block
        return match

    def insert(self, match: BlockMatch, tokens: np.ndarray, slots: None, checkpoints: Mapping[int, Any], now: float) -> None:
        """Keep the full blocks of `tokens`, as far as there is room that no running request uses."""
        self._extend(match, tokens, may_add=True)

    def release(self, match: BlockMatch) -> None:
        """The request needs its blocks no longer."""
        for block in reversed(match.blocks):
            self._n_users[block] -= 1
            if not self._n_users[block]:
                self._unused[block] = None
        match.blocks = []

    def _extend(self, match: BlockMatch, tokens: np.ndarray, may_add: bool) -> None:
        size = self.block * tokens.itemsize
        data = tokens.tobytes()
        for start in range(len(match.blocks) * size, len(data) - size + 1, size):
            key = (match.blocks[-1] if match.blocks else (match.root,), data[start : start + size])
            block = self._ids.get(key)
            if block is None:
                if not may_add or not self._make_room():
                    return
                block = self._add(key)
            self._n_users[block] += 1
            self._unused.pop(block, None)
            match.blocks.append(block)

    def _add(self, key: _Key) -> int:
        self._n_made += 1
        self._ids[key], self._keys[self._n_made], self._n_users[self._n_made] = self._n_made, key, 0
        return self._n_made

    def _make_room(self) -> bool:
        while self.used_bytes + self.block_bytes > self.capacity_bytes:
            if not self._unused:
                return False
            victim, _ = self._unused.popitem(last=False)
            del self._ids[self._keys.pop(victim)], self._n_users[victim]
            self.n_evicted += 1
        return True
