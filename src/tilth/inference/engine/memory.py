"""What requests hold: slots, bytes and what the cache lends them, taken and given back in one place."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping

import numpy as np

from tilth.inference.cache.costs import StateCosts
from tilth.inference.cache.policies.guarded import Guarded
from tilth.inference.cache.policies.policy import Policy
from tilth.inference.cache.prefix_cache import PrefixCache
from tilth.inference.cache.quantized import Exact, StateForm
from tilth.inference.cache.selector import Selector
from tilth.inference.engine.jobs import Branch, Prefix, Reading, Tokens
from tilth.inference.engine.paging import KeyValuePool
from tilth.inference.engine.recurrent import Checkpoint, are_finite, copied, empty_checkpoint
from tilth.inference.engine.slots import Slots
from tilth.models.decoder import Decoder

TAIL_SLOTS = 32
"""Slots that a branch takes at once: few are left over at its end, and they lie in one piece."""


class Memory:
    """kv_bytes: keys and values of one token; row_bytes: the recurrent states of one row.

    The cache counts all bytes, those of running requests as reserved. What it cannot resume, it is never asked for. on_fault is
    told what the cache raises where a request needs it no more.
    """

    def __init__(
        self,
        model: Decoder,
        capacity_bytes: int,
        policy: Policy | None = None,
        form: StateForm | None = None,
        on_fault: Callable[[Exception], None] = lambda error: None,
    ) -> None:
        weight = model.embedding.weight
        self._empty, self._form = empty_checkpoint(model), form or Exact()
        self.row_bytes = sum(tensor.nbytes for tensor in self._empty)
        costs = StateCosts.of(model.config, weight.element_size(), self._form.size_bytes(self._empty))
        self.kv_bytes = costs.kv_bytes
        most_slots = capacity_bytes // self.kv_bytes if self.kv_bytes else 0
        self.pool = KeyValuePool(model.config, weight.dtype, weight.device, most_slots)
        self.cache = PrefixCache(costs, capacity_bytes, Guarded(policy or Selector(), on_fault), free_slots=self._free_in_pool)
        self._on_fault = on_fault

    def most_bytes(self, n_prompt_tokens: int, n_new_tokens: int, n_branches: int) -> int:
        """What a request holds at most when it runs alone; three rows more: the reading, its cut, what it began from."""
        return self.kv_bytes * (n_prompt_tokens + n_branches * n_new_tokens) + self.row_bytes * (n_branches + 3)

    def begin(self, reading: Reading, root: Hashable | None) -> bool:
        """Take what the reading and its branches begin with; False where the bytes are not there, and nothing is taken.

        What the cache knows of the text under `root` is not read again (None: it is not asked).
        """
        match = None if root is None else self.cache.match(root, reading.tokens, time.monotonic())
        n_known = match.n_tokens if match else 0
        is_cut = match is not None and match.cut is not None
        n_missing, n_rows = len(reading.tokens) - n_known, len(reading.branches) + 1 + is_cut
        n_bytes = n_missing * self.kv_bytes + n_rows * self.row_bytes
        if not self.cache.reserve(n_bytes):
            if match:
                self.cache.release(match)
            return False
        try:
            known = match.slots if match and match.slots is not None else self._no_slots
            slots = np.concatenate([known, self._take(n_missing, int(known[-1]) if len(known) else -2)])
            is_there = match is not None and match.checkpoint is not None
            states = self._form.unpack(match.checkpoint) if match and is_there else copied(self._empty)
        except Exception:
            self.cache.give_back(n_bytes)
            if match:
                self.cache.release(match)
            raise
        reading.prefix, reading.states, reading.n_read = Prefix(slots, n_known, match), states, n_known
        reading.cut = match.cut if match else None
        return True

    def keep_cut(self, reading: Reading) -> None:
        """The reading has come to its cut: what it has read and its states there are the cache's."""
        assert reading.prefix is not None
        self.cache.give_back(self.row_bytes)
        reading.cut = None
        self._keep_read(reading, reading.prefix)

    def share(self, reading: Reading) -> Checkpoint:
        """Give the text that was read to its branches; returns its states, from which each of their rows is copied."""
        prefix, states = reading.prefix, reading.states
        assert prefix is not None
        assert states is not None
        if prefix.match is not None:
            self._keep_prefix(prefix, reading.tokens, {})
        prefix.n_users = len(reading.branches)
        for branch in reading.branches:
            branch.prefix, branch.n_read = prefix, len(reading.tokens)
        reading.prefix, reading.states = None, None
        self.cache.give_back(self.row_bytes)
        return states

    def extend(self, branch: Branch) -> Slots | None:
        """More slots for a branch that has used all of its own; None where the bytes are not there."""
        n_left = branch.job.request.max_tokens - len(branch.ids)
        n_slots = max(1, min(TAIL_SLOTS, n_left))
        if not self.cache.reserve(n_slots * self.kv_bytes):
            return None
        try:
            slots = self._take(n_slots, int(branch.slots()[-1]))
        except Exception:
            self.cache.give_back(n_slots * self.kv_bytes)
            raise
        branch.tail = np.concatenate([branch.tail, slots])
        return slots

    def drop_reading(self, reading: Reading, keeps: bool = False) -> None:
        """Give back all that a reading and its branches hold; `keeps`: what it has read goes to the cache.

        It never raises: what the cache raises is a fault that nobody's answer depends on.
        """
        prefix = reading.prefix
        if prefix is None:
            return
        self.cache.give_back(self.row_bytes * (len(reading.branches) + 1 + (reading.cut is not None)))
        try:
            if keeps and prefix.match is not None and reading.n_read > prefix.n_kept:
                self._keep_read(reading, prefix)
        except Exception as error:
            self._on_fault(error)
        self._close(prefix)
        reading.prefix, reading.states, reading.cut, reading.n_read = None, None, None, 0

    def drop_branch(self, reading: Reading, branch: Branch) -> None:
        """Give back what one of several branches of a reading holds."""
        reading.branches.remove(branch)
        if reading.prefix is not None:
            self.cache.give_back(self.row_bytes)

    def drop(self, branch: Branch, states: Checkpoint | None = None) -> None:
        """Give back all that a branch which decodes holds; with its states, what it has read goes to the cache.

        It never raises: what the cache raises is a fault that nobody's answer depends on.
        """
        prefix = branch.prefix
        assert prefix is not None
        self.cache.give_back(self.row_bytes)
        # a sibling's table has the prefix's own slots: they may not be replaced by those of another
        is_settled = prefix.n_kept == len(prefix.slots) or prefix.n_users == 1
        try:
            if states is not None and prefix.match is not None and is_settled and are_finite(states):
                self._keep_branch(branch, prefix, states)
        except Exception as error:
            self._on_fault(error)
        self._free(branch.tail)
        self._close(prefix)
        branch.prefix, branch.tail = None, self._no_slots

    def _keep_read(self, reading: Reading, prefix: Prefix) -> None:
        """What a reading has read before its logits are known: they would have told of a number that is none."""
        at, states = reading.n_read, reading.states
        assert states is not None
        if are_finite(states) and self.pool.are_finite(prefix.slots[prefix.n_kept : at]):
            self._keep_prefix(prefix, reading.tokens[:at], {at: states})

    def _keep_prefix(self, prefix: Prefix, tokens: Tokens, checkpoints: Mapping[int, Checkpoint]) -> None:
        def settle(held: Slots) -> None:
            prefix.slots = np.concatenate([held, prefix.slots[len(held) :]])
            prefix.n_kept = len(held)

        self._insert(prefix, tokens, prefix.slots[: len(tokens)], checkpoints, settle)

    def _keep_branch(self, branch: Branch, prefix: Prefix, states: Checkpoint) -> None:
        slots, n_read, n_prefix = branch.slots(), branch.n_read, len(prefix.slots)

        def settle(held: Slots) -> None:
            prefix.n_kept = min(n_prefix, len(held))
            branch.tail = slots[max(n_prefix, len(held)) :]

        self._insert(prefix, branch.tokens()[:n_read], slots[:n_read], {n_read: states}, settle)

    def _insert(
        self,
        prefix: Prefix,
        tokens: Tokens,
        slots: Slots,
        checkpoints: Mapping[int, Checkpoint],
        settle: Callable[[Slots], None],
    ) -> None:
        """Hand slots with reserved bytes over to the cache; settle is told those that it holds, also if it raises."""
        assert prefix.match is not None
        packed = {at: self._form.pack(states) for at, states in checkpoints.items()}
        self.cache.give_back((len(tokens) - prefix.n_kept) * self.kv_bytes)
        prefix.match.n_held = prefix.n_kept  # of this text: the last insert may have been a sibling's
        try:
            self.cache.insert(prefix.match, tokens, slots, packed, time.monotonic())
        finally:
            held = self.cache.held(prefix.match)
            settle(held)
            if not self.cache.reserve((len(tokens) - len(held)) * self.kv_bytes):
                raise MemoryError("the cache took bytes that a request had")

    def _close(self, prefix: Prefix) -> None:
        prefix.n_users -= 1
        if prefix.n_users == 0:
            self._free(prefix.slots[prefix.n_kept :])
            if prefix.match is not None:
                self.cache.release(prefix.match)

    @property
    def _no_slots(self) -> Slots:
        return np.empty(0, dtype=np.int32)

    def _take(self, n_slots: int, after: int = -2) -> Slots:
        # without attention there is nothing to keep, and one slot stands for all
        return self.pool.take(n_slots, after) if self.kv_bytes else np.zeros(n_slots, dtype=np.int32)

    def _free(self, slots: Slots) -> None:
        self._free_in_pool(slots)
        self.cache.give_back(len(slots) * self.kv_bytes)

    def _free_in_pool(self, slots: Slots) -> None:
        if self.kv_bytes:
            self.pool.free(slots)
