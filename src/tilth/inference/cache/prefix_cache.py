"""PrefixCache: match, insert, release; reserve and give back. Every byte is counted before it is taken, and never one too many.

One thread calls it. It holds numpy arrays of slots and opaque checkpoints, and frees both through callables, so that the same
class serves an engine with tensors and a replay with nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any

import numpy as np

from tilth.errors import UserError
from tilth.inference.cache.admission import Admission
from tilth.inference.cache.candidates import is_superseded
from tilth.inference.cache.contents import Contents
from tilth.inference.cache.costs import StateCosts
from tilth.inference.cache.evicted import EvictedPrefixes, Recalled
from tilth.inference.cache.ledger import Ledger
from tilth.inference.cache.matches import Match, miss_reason
from tilth.inference.cache.policies.policy import LAST, Policy
from tilth.inference.cache.selector import Selector
from tilth.inference.cache.stats import CacheStats
from tilth.inference.cache.tree import NO_TOKENS, Node, Slots, Tokens, Walk, branch_point, path_slots, path_to


class PrefixCache:
    """A tree a root under one budget of bytes (arXiv 2411.19379, from its description).

    A hit is the deepest node with a checkpoint on the path that the input matches whole; a match is also the speculative
    insertion that discovers where the input leaves a known path. costs say what a token's keys and a checkpoint take; where a
    checkpoint takes nothing (no recurrent layer), any known token can be reused. policy orders the victims (default: Selector);
    admission is the policy's own unless given.
    Raises UserError for a capacity below 0.
    """

    def __init__(
        self,
        costs: StateCosts,
        capacity_bytes: int,
        policy: Policy | None = None,
        free_slots: Callable[[Slots], None] | None = None,
        free_checkpoint: Callable[[Any], None] | None = None,
        admission: Admission | None = None,
    ) -> None:
        if capacity_bytes < 0:
            raise UserError(f"a cache cannot hold {capacity_bytes} bytes", "capacity_bytes", "Give 0 or more.")
        self.costs, self.policy = costs, policy or Selector()
        self.admission = admission or self.policy.admission
        self.ledger = Ledger(costs, int(capacity_bytes))
        self.contents = Contents(self.ledger, self.policy, free_slots, free_checkpoint)
        self.evicted = EvictedPrefixes.beside(int(capacity_bytes))
        self._stats = CacheStats()
        self.policy.attached(self)

    # What an engine calls.

    def match(self, root: Hashable, tokens: Tokens, now: float) -> Match:
        """What is known of `tokens` (N,) int32 under `root`, pinned until release. At least the last token is left to read."""
        tokens = np.asarray(tokens, dtype=np.int32)
        self.contents.now = now
        walk = self.contents.tree.walk(root, tokens)
        node = self._deepest_hit(walk, len(tokens) - 1)
        match = self._describe(node, root, tokens, walk)
        if node is not None:
            self._reuse(match, node, walk)
        saved = self.costs.prefill_flops(0, match.n_tokens)
        self._stats.count(root, len(tokens), match.n_tokens, saved, match.miss_reason)
        self.policy.matched(match, tokens, now)
        return match

    def insert(
        self, match: Match, tokens: Tokens, slots: Slots | None, checkpoints: Mapping[int, Any], now: float
    ) -> Slots | None:
        """Take over what the tree does not know of `tokens`, which begin with those of the match, and states by their position.

        slots (N,) int32, one a token, or None. Returns the slots that the tree now uses: the caller goes on with these (where
        others came first, its own are freed), and they stay pinned until release. They are fewer than N where not even all
        evictions make room for the keys (and for a state at N, if one is given); the slots beyond stay the caller's, and
        match.n_held says how many are in the tree. A checkpoint is the cache's from now on, also when it does not fit or is
        there already: then it is freed at once. Raises ValueError for tokens that do not begin with those of the match.
        """
        tokens = np.asarray(tokens, dtype=np.int32)
        self._check_open(match)
        self.contents.now = now
        walk = self.contents.tree.walk(match.root, tokens)
        if walk.n_known < match.n_tokens:
            raise ValueError(f"the tokens differ from the {match.n_tokens} that were matched after {walk.n_known}")
        end = self._node_at(walk, walk.n_known)
        self._hold(match, end)
        n_kept = self._n_that_fit(end, walk.n_known, len(tokens), checkpoints)
        if n_kept > walk.n_known:
            edge = slice(walk.n_known, n_kept)
            end = self._append(match, end, tokens[edge], None if slots is None else slots[edge])
        match.n_held = n_kept
        held = path_slots(path_to(end))
        if slots is not None and held is not None:
            own, used = slots[match.n_tokens : walk.n_known], held[match.n_tokens : walk.n_known]
            self.contents.free_slots(own[own != used])
        for at, checkpoint in checkpoints.items():
            if end is None or not 0 < at <= n_kept or not self._keep_checkpoint(match, end, at, checkpoint):
                self.contents.free_state(checkpoint)
        self.policy.inserted(match, tokens, checkpoints, now)
        return NO_TOKENS if held is None and slots is not None else held

    def release(self, match: Match) -> None:
        """The request has ended: what it pinned may be evicted. Raises ValueError for a second time."""
        self._check_open(match)
        match.is_open = False
        self._hold(match, None)
        self.policy.released(match)

    def reserve(self, n_bytes: int) -> bool:
        """Take bytes for states beside the tree, evicting as needed. False, and nothing evicted, where they cannot be had."""
        if n_bytes > self.ledger.room_bytes:
            return False
        self._make_room(n_bytes)
        self.ledger.reserved_bytes += n_bytes
        self.policy.reserved(self.ledger.reserved_bytes)
        return True

    def give_back(self, n_bytes: int) -> None:
        """Undo a reserve, or a part of it. Raises ValueError for more than is reserved."""
        if not 0 <= n_bytes <= self.ledger.reserved_bytes:
            raise ValueError(f"{n_bytes} bytes given back of {self.ledger.reserved_bytes} that are reserved")
        self.ledger.reserved_bytes -= n_bytes
        self.policy.reserved(self.ledger.reserved_bytes)

    def clear(self, root: Hashable | None = None) -> None:
        """Drop all that no request uses, of one root or of all; the policy is told, and not asked."""
        self.evicted.clear(root)
        for node in reversed(list(self.contents.tree.nodes(root))):  # children first
            if node.parent is None:
                continue  # it has joined the only child that was left
            if node.has_checkpoint and not node.checkpoint_pins:
                self.contents.drop_checkpoint(node)
            if node.is_leaf and not node.locks:
                self.contents.remove_leaf(node)
            else:
                self.contents.settle(node)
        self.policy.cleared(root)

    # What a policy may ask for.

    def shadow(self, policy: Policy, share: float = 1.0, with_contents: bool = False) -> PrefixCache:
        """A cache without payloads under another order: empty, with a share of the capacity, or a copy of what is here."""
        made = PrefixCache(self.costs, int(self.capacity_bytes * share), policy, admission=self.admission)
        if with_contents:
            made.contents.copy(self.contents)
        return made

    def reorder(self) -> None:
        """The policy has changed its mind about all nodes: about 2 microseconds each."""
        for node in list(self.contents.candidates.nodes):
            self.contents.refresh(node)

    # What it says of itself.

    @property
    def capacity_bytes(self) -> int:
        """The cap."""
        return self.ledger.capacity_bytes

    @property
    def used_bytes(self) -> int:
        """Keys, checkpoints and what is reserved; never above the cap."""
        return self.ledger.used_bytes

    @property
    def kv_bytes(self) -> int:
        """Keys and values in the tree."""
        return self.ledger.kv_bytes

    @property
    def checkpoint_bytes(self) -> int:
        """Checkpoints in the tree."""
        return self.ledger.checkpoint_bytes

    @property
    def reserved_bytes(self) -> int:
        """Taken by reserve."""
        return self.ledger.reserved_bytes

    @property
    def stats(self) -> CacheStats:
        """Counts since the beginning."""
        self._stats.arm = self.policy.arm
        return self._stats

    @property
    def n_evicted(self) -> int:
        """Leaves and states that were evicted."""
        return self._stats.evictions.total()

    def recount(self) -> Ledger:
        """The ledger anew, from a walk over all nodes."""
        counted = Ledger(self.costs, self.capacity_bytes, reserved_bytes=self.ledger.reserved_bytes)
        for node in self.contents.tree.nodes():
            counted.n_tokens += len(node.edge)
            counted.n_checkpoints += node.has_checkpoint
            counted.n_locked_tokens += len(node.edge) if node.locks else 0
            counted.n_pinned_checkpoints += node.checkpoint_pins > 0
        return counted

    # Finding.

    def _deepest_hit(self, walk: Walk, n_most: int) -> Node | None:
        if not self.costs.checkpoint_bytes:
            return self._node_at(walk, min(walk.n_known, max(0, n_most)))
        return next((node for node in reversed(walk.nodes) if node.has_checkpoint and node.depth <= n_most), None)

    def _node_at(self, walk: Walk, position: int) -> Node | None:
        """The node at a position that the walk reaches, made by a split where there is none; None for position 0."""
        if not position:
            return None
        nodes = walk.nodes if walk.partial is None else [*walk.nodes, walk.partial]
        node = next(node for node in nodes if node.depth >= position)
        return node if node.depth == position else self.contents.split(node, position)

    def _describe(self, node: Node | None, root: Hashable, tokens: Tokens, walk: Walk) -> Match:
        n_tokens = node.depth if node else 0
        recalled = self.evicted.recall(root, tokens, n_tokens)
        if recalled.lost is not None:
            self.policy.missed(recalled.lost.ticket, self.contents.now)
        was_evicted = recalled.lost is not None or recalled.n_known > walk.n_known
        return Match(
            root=root,
            n_tokens=n_tokens,
            n_known=walk.n_known,
            slots=path_slots(path_to(node)),
            checkpoint=node.checkpoint if node else None,
            cut=self._cut(n_tokens, len(tokens), walk, recalled) if self.costs.checkpoint_bytes else None,
            miss_reason=miss_reason(n_tokens, walk.n_known, len(tokens), was_evicted),
        )

    def _cut(self, n_reused: int, n_tokens: int, walk: Walk, recalled: Recalled) -> int | None:
        if not self.admission.keeps_branch_points:
            return None
        at = branch_point(walk, n_tokens)
        if self.admission.recalls_evicted and recalled.n_known > walk.n_known:
            at = max(at, recalled.branch_point)
        at = min(at, n_tokens - 1)  # the last token is always read, so that there are logits to go on from
        return at if at > n_reused else None

    def _reuse(self, match: Match, node: Node, walk: Walk) -> None:
        self._hold(match, node)
        if node.has_checkpoint:
            self.contents.pin_checkpoint(node)
            match.reads_checkpoint = True
        node.n_uses += 1
        node.frequency += 1
        # what begins at a branch point is another conversation
        match.frequency = 1 if node.has_branched else node.frequency
        for other in walk.nodes if self.policy.touches_path else ():
            if other.depth < node.depth:
                self.contents.touch(other)
        self.contents.touch(node)

    @staticmethod
    def _check_open(match: Match) -> None:
        if not match.is_open:
            raise ValueError("this match was released already")

    # Holding: a request locks its path, and pins the checkpoint that it reads.

    def _hold(self, match: Match, node: Node | None) -> None:
        """Let the request hold the path down to `node` in place of what it held; with that ends its reading of a checkpoint."""
        if node is not None:
            self.contents.lock(node)
        old, match.node = match.node, node
        if old is not None:
            if match.reads_checkpoint:
                self.contents.unpin_checkpoint(old)
                match.reads_checkpoint = False
            self.contents.unlock(old)

    # Keeping.

    def _n_that_fit(self, end: Node | None, n_known: int, n_tokens: int, checkpoints: Mapping[int, Any]) -> int:
        """How many tokens to keep: all, or up to a state whose keys fit with it. Keys without a state would save nothing."""

        def fits(at: int) -> bool:
            is_there = at == n_known and end is not None and end.has_checkpoint
            n_states = int(at in checkpoints and not is_there)
            return self.costs.size_bytes(at - n_known, n_states) <= self.ledger.room_bytes

        ends = [n_tokens, *sorted((at for at in checkpoints if n_known < at < n_tokens), reverse=True)]
        return next((at for at in ends if fits(at)), n_known)

    def _append(self, match: Match, end: Node | None, edge: Tokens, slots: Slots | None) -> Node:
        self._make_room(self.costs.kv_bytes * len(edge))
        # only now: making room may have emptied the root's tree
        parent = end or self.contents.tree.root_node(match.root)
        node = self.contents.append(parent, edge, slots, match.frequency, match.cut is not None)
        self._hold(match, node)
        return node

    def _keep_checkpoint(self, match: Match, end: Node, at: int, checkpoint: Any) -> bool:
        """Put a state on the held path that ends in `end`. False where there is one, or where no room can be made."""
        if not self.costs.checkpoint_bytes:
            return False  # without recurrent layers there is nothing in it
        node = self._above(end, at)
        if node.depth == at and node.has_checkpoint:
            self.contents.touch(node)
            return False
        if self.costs.checkpoint_bytes > self.ledger.room_bytes or not self._make_room_for_state():
            return False
        node = self._above(end, at)  # anew: an eviction may have merged nodes of the path
        node = node if node.depth == at else self.contents.split(node, at)
        # also where the other branch was evicted
        node.has_branched |= at == match.cut
        self.contents.attach(node, checkpoint)
        self._thin_path(node)
        return True

    @staticmethod
    def _above(node: Node, at: int) -> Node:
        while node.start >= at:
            assert node.parent is not None
            node = node.parent
        return node

    def _thin_path(self, node: Node) -> None:
        limit = self.admission.max_checkpoints_per_path
        if limit is None:
            return
        held = [other for other in path_to(node) if other.has_checkpoint]
        may_go = [other for other in held if other is not node and not other.has_branched and not other.checkpoint_pins]
        for other in may_go[: max(0, len(held) - limit)]:
            self._stats.evictions["path limit"] += 1
            self.contents.drop_checkpoint(other)
            self.contents.settle(other)

    # Letting go.

    def _make_room(self, n_bytes: int) -> None:
        while self.ledger.free_bytes < n_bytes:
            self.evict_one()

    def _make_room_for_state(self) -> bool:
        """Not at the price of a branch point from which several paths go on: that is worth more than any new end."""
        while self.ledger.free_bytes < self.costs.checkpoint_bytes:
            if self.contents.candidates.priority.min() >= LAST:
                return False
            self.evict_one()
        return True

    def evict_one(self) -> None:
        """Evict what the policy names: a leaf with its keys, or a state whose keys others stand on."""
        node = self.policy.victim(self.contents.candidates, self.contents.now)
        self.policy.evicted(node, float(self.contents.candidates.priority[node.row]))
        self.evicted.remember(node)
        if node.is_leaf and not node.locks:
            self._stats.evictions["leaf"] += 1
            if node.has_checkpoint:
                self.contents.drop_checkpoint(node)
            self.contents.remove_leaf(node)
        else:
            self._stats.evictions["superseded" if is_superseded(node) else "state"] += 1
            self.contents.drop_checkpoint(node)
            self.contents.settle(node)
