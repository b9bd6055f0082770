"""What requests hold: slots, bytes and what the cache lends them, taken and given back in one place."""

from __future__ import annotations

import numpy as np

from tilth.inference.engine.jobs import Branch, Prefix, Reading
from tilth.inference.engine.ledger import Ledger
from tilth.inference.engine.paging import KeyValuePool
from tilth.inference.engine.recurrent import Checkpoint, copied, empty_checkpoint
from tilth.inference.engine.slots import Slots
from tilth.models.decoder import Decoder

TAIL_SLOTS = 32
"""Slots that a branch takes at once: few are left over at its end, and they lie in one piece."""


class Memory:
    """kv_bytes: keys and values of one token; row_bytes: the recurrent states of one row."""

    def __init__(self, model: Decoder, capacity_bytes: int) -> None:
        weight = model.embedding.weight
        self._empty = empty_checkpoint(model)
        self.row_bytes = sum(tensor.nbytes for tensor in self._empty)
        config = model.config
        self.kv_bytes = 2 * config.pattern.count("A") * config.kv_heads * config.attention_head_dim * weight.element_size()
        self.has_keys = self.kv_bytes > 0
        most_slots = capacity_bytes // self.kv_bytes if self.has_keys else 0
        self.pool = KeyValuePool(config, weight.dtype, weight.device, most_slots)
        self.ledger = Ledger(capacity_bytes)

    def most_bytes(self, n_prompt_tokens: int, n_new_tokens: int, n_branches: int) -> int:
        """What a request holds at most when it runs alone; one row more is that of the reading."""
        return self.kv_bytes * (n_prompt_tokens + n_branches * n_new_tokens) + self.row_bytes * (n_branches + 1)

    def begin(self, reading: Reading) -> bool:
        """Take what the reading and its branches begin with; False where the bytes are not there, and nothing is taken."""
        n_missing = len(reading.tokens)
        n_rows = len(reading.branches) + 1
        if not self.ledger.reserve(n_missing * self.kv_bytes + n_rows * self.row_bytes):
            return False
        try:
            slots = self._take(n_missing)
            reading.states = copied(self._empty)
        except Exception:
            self.ledger.give_back(n_missing * self.kv_bytes + n_rows * self.row_bytes)
            raise
        reading.prefix, reading.n_read = Prefix(slots, 0, None), 0
        return True

    def share(self, reading: Reading) -> Checkpoint:
        """Give the text that was read to its branches; returns its states, from which each of their rows is copied."""
        assert reading.prefix is not None
        assert reading.states is not None
        prefix, states = reading.prefix, reading.states
        prefix.n_users = len(reading.branches)
        for branch in reading.branches:
            branch.prefix, branch.n_read = prefix, len(reading.tokens)
            branch.tail = branch.tail[:0]
        reading.prefix, reading.states = None, None
        self.ledger.give_back(self.row_bytes)
        return states

    def extend(self, branch: Branch) -> Slots | None:
        """More slots for a branch that has used all of its own; None where the bytes are not there."""
        n_left = branch.job.request.max_tokens - len(branch.ids)
        n_slots = max(1, min(TAIL_SLOTS, n_left))
        if not self.ledger.reserve(n_slots * self.kv_bytes):
            return None
        assert branch.prefix is not None
        last = branch.tail[-1] if len(branch.tail) else branch.prefix.slots[-1]
        try:
            slots = self._take(n_slots, int(last))
        except Exception:
            self.ledger.give_back(n_slots * self.kv_bytes)
            raise
        branch.tail = np.concatenate([branch.tail, slots])
        return slots

    def drop_reading(self, reading: Reading) -> None:
        """Give back all that a reading which has begun, and its branches, hold."""
        if reading.prefix is None:
            return
        reading.prefix.n_users = 1
        self._close(reading.prefix)
        self.ledger.give_back(self.row_bytes * (len(reading.branches) + 1))
        reading.prefix, reading.states, reading.n_read = None, None, 0

    def drop_branch(self, reading: Reading, branch: Branch) -> None:
        """Give back what one of several branches of a reading holds."""
        reading.branches.remove(branch)
        if reading.prefix is not None:
            self.ledger.give_back(self.row_bytes)

    def drop(self, branch: Branch) -> None:
        """Give back all that a branch which decodes holds."""
        assert branch.prefix is not None
        self._free(branch.tail)
        self._close(branch.prefix)
        self.ledger.give_back(self.row_bytes)
        branch.prefix, branch.tail = None, branch.tail[:0]

    def _close(self, prefix: Prefix) -> None:
        prefix.n_users -= 1
        if prefix.n_users == 0:
            self._free(prefix.slots[prefix.n_kept :])

    def _take(self, n_slots: int, after: int = -2) -> Slots:
        # without attention there is nothing to keep, and one slot stands for all
        return self.pool.take(n_slots, after) if self.has_keys else np.zeros(n_slots, dtype=np.int32)

    def _free(self, slots: Slots) -> None:
        if self.has_keys:
            self.pool.free(slots)
        self.ledger.give_back(len(slots) * self.kv_bytes)
