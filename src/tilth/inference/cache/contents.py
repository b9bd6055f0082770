"""Contents: the tree, the ledger and the candidates for eviction, kept true to each other by every single change."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tilth.inference.cache.candidates import Candidates, worth
from tilth.inference.cache.ledger import Ledger
from tilth.inference.cache.policies.policy import Policy
from tilth.inference.cache.tree import Node, Slots, Tokens, Tree, path_to

# Of a node, what a policy's decision may rest on.
COPIED = ("has_checkpoint", "last_use", "tick", "n_uses", "frequency", "has_branched", "follows_cut")


class Contents:
    """What a cache holds. It takes no decision: the caller has made the room that a change needs.

    Each method leaves the ledger equal to a recount, and each node in the candidates exactly if something of it may go.
    """

    def __init__(
        self,
        ledger: Ledger,
        policy: Policy,
        free_slots: Callable[[Slots], None] | None,
        free_checkpoint: Callable[[Any], None] | None,
    ) -> None:
        self.ledger, self.costs, self.policy = ledger, ledger.costs, policy
        self.tree, self.candidates = Tree(), Candidates()
        self.now = 0.0
        self._free_slots, self._free_checkpoint = free_slots, free_checkpoint
        self._n_uses = 0

    # A request locks its path, and pins the checkpoint that it reads.

    def lock(self, node: Node) -> None:
        """Nothing of the path down to `node` may go."""
        for other in path_to(node):
            self.ledger.n_locked_tokens += 0 if other.locks else len(other.edge)
            other.locks += 1
        self.refresh(node)

    def unlock(self, node: Node) -> None:
        """Undo one lock."""
        for other in path_to(node):
            other.locks -= 1
            self.ledger.n_locked_tokens -= 0 if other.locks else len(other.edge)
        self.settle(node)

    def pin_checkpoint(self, node: Node) -> None:
        """The checkpoint of `node` may not go."""
        self.ledger.n_pinned_checkpoints += not node.checkpoint_pins
        node.checkpoint_pins += 1
        self.refresh(node)

    def unpin_checkpoint(self, node: Node) -> None:
        """Undo one pin."""
        node.checkpoint_pins -= 1
        self.ledger.n_pinned_checkpoints -= not node.checkpoint_pins
        self.refresh(node)

    # Coming and going.

    def append(self, parent: Node, edge: Tokens, slots: Slots | None, frequency: int, follows_cut: bool) -> Node:
        """A new leaf, which the caller holds and touches next: what a policy says comes after all is settled."""
        node = self.tree.append(parent, edge, slots)
        node.frequency, node.follows_cut = frequency, follows_cut
        self.ledger.n_tokens += len(edge)
        return node

    def attach(self, node: Node, checkpoint: Any) -> None:
        """Give a node without a checkpoint one, used now."""
        node.checkpoint, node.has_checkpoint = checkpoint, True
        self.ledger.n_checkpoints += 1
        self.touch(node)
        self._refresh_around(node)

    def split(self, node: Node, depth: int) -> Node:
        """A node at `depth` within the edge of `node`, which stays the lower part."""
        upper = self.tree.split(node, depth)
        self.refresh_with_parent(upper)
        self.refresh(node)
        return upper

    def drop_checkpoint(self, node: Node) -> None:
        """Free the checkpoint of a node; its keys stay."""
        self.free_state(node.checkpoint)
        node.checkpoint, node.has_checkpoint, node.n_uses = None, False, 0
        self.ledger.n_checkpoints -= 1
        self._refresh_around(node)

    def remove_leaf(self, node: Node) -> None:
        """Free the keys of a leaf without a checkpoint."""
        if node.slots is not None:
            self.free_slots(node.slots)
        self.ledger.n_tokens -= len(node.edge)
        self.candidates.discard(node)
        self.settle(self.tree.remove_leaf(node))

    def settle(self, node: Node) -> None:
        """A node that stands for nothing, neither state nor branch nor the end of a request's path, joins its child or goes."""
        if node.parent is None:
            return
        child = node.only_child()
        if not node.has_checkpoint and child is not None and child.locks == node.locks:
            self.candidates.discard(node)
            self.refresh_with_parent(self.tree.merge_into_child(node))
        elif node.is_leaf and not node.has_checkpoint and not node.locks and not self.costs.kv_bytes:
            self.remove_leaf(node)  # keys that take no bytes would never be evicted
        else:
            self.refresh(node)

    def free_slots(self, slots: Slots) -> None:
        """Hand slots back to the pool."""
        if len(slots) and self._free_slots is not None:
            self._free_slots(slots)

    def free_state(self, checkpoint: Any) -> None:
        """Hand a checkpoint back."""
        if self._free_checkpoint is not None:
            self._free_checkpoint(checkpoint)

    def copy(self, other: Contents) -> None:
        """Take over the shape of another's tree into this empty one: no slots, no states, nothing locked."""
        self.now, self._n_uses = other.now, other._n_uses
        twins: dict[int, Node] = {}
        for node in other.tree.nodes():  # parents first
            parent = node.parent
            assert parent is not None
            above = twins.get(id(parent)) or self.tree.root_node(node.root)
            twin = twins[id(node)] = self.tree.append(above, node.edge, None)
            for field in COPIED:
                setattr(twin, field, getattr(node, field))
            self.ledger.n_tokens += len(node.edge)
            self.ledger.n_checkpoints += node.has_checkpoint
        for twin in twins.values():
            self.settle(twin)

    # Telling the candidates.

    def touch(self, node: Node) -> None:
        """The node is used now."""
        self._n_uses += 1
        node.last_use, node.tick = self.now, self._n_uses
        self.policy.used(node)
        self.refresh(node)

    def refresh(self, node: Node) -> None:
        """Something about the node has changed that may change its place among the candidates."""
        if node.parent is None:
            return
        value = worth(node, self.costs)
        if value is None:
            self.candidates.discard(node)
        else:
            n_held = self.costs.size_bytes(len(node.edge), int(node.has_checkpoint))
            self.candidates.put(node, self.policy.priority(node, value), value.flops / max(1, n_held))

    def refresh_with_parent(self, node: Node) -> None:
        """As refresh, where it also changes whether the one above is superseded."""
        self.refresh(node)
        if node.parent is not None:
            self.refresh(node.parent)

    def _refresh_around(self, node: Node) -> None:
        """After a checkpoint came or went: the node, the one above, and those below that counted from it."""
        self.refresh_with_parent(node)
        stack = list(node.children.values())
        while stack:
            below = stack.pop()
            self.refresh(below)
            if not below.has_checkpoint:
                stack.extend(below.children.values())
