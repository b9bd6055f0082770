"""What was here once: a bounded memory of evicted paths, so that a miss can say that it is the eviction's."""

from __future__ import annotations

import zlib
from collections import OrderedDict
from collections.abc import Hashable

from tilth.inference.cache.tree import Node, Tokens, Walk

MAX_REMEMBERED = 65_536


class EvictedPaths:
    """The last MAX_REMEMBERED leaves that went, each by its root, its place, a CRC-32 of the tokens before and its first token.

    About 10 MB when full. Two different prefixes of one length are taken for one another once in four billion.
    """

    def __init__(self, n_max: int = MAX_REMEMBERED) -> None:
        self.n_max = n_max
        self._keys: OrderedDict[tuple[Hashable, int, int, int], None] = OrderedDict()

    def remember(self, leaf: Node) -> None:
        """Call before the leaf is taken out."""
        assert leaf.parent is not None
        key = (leaf.root, leaf.start, leaf.parent.digest, int(leaf.edge[0]))
        self._keys[key] = None
        self._keys.move_to_end(key)
        if len(self._keys) > self.n_max:
            self._keys.popitem(last=False)

    def knew_more(self, root: Hashable, tokens: Tokens, walk: Walk) -> bool:
        """Whether the token after those that are known was once known."""
        n_known = walk.n_known
        if n_known == len(tokens) or not self._keys:
            return False
        above = walk.nodes[-1] if walk.nodes else None
        start, digest = (above.depth, above.digest) if above else (0, 0)
        digest = zlib.crc32(tokens[start:n_known].data, digest)
        return (root, n_known, digest, int(tokens[n_known])) in self._keys

    def __len__(self) -> int:
        return len(self._keys)
