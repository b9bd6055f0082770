"""The rows that decode: their slots, lengths and states, and one pass over all of them, or over one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from torch import Tensor

from tilth.inference.engine.jobs import Branch
from tilth.inference.engine.paging import KeyValuePool, PagedState
from tilth.inference.engine.recurrent import Checkpoint, Recurrent, RowStates, copied, layers_of, tensors_of
from tilth.inference.engine.slots import Slots
from tilth.models.decoder import Decoder
from tilth.models.states import DecoderStates, MixerState


class DecodeBatch:
    """A row for each branch; a branch that leaves is replaced by the last."""

    def __init__(self, model: Decoder, pool: KeyValuePool) -> None:
        self.branches: list[Branch] = []
        self._model, self._pool = model, pool
        self._states = RowStates(model)
        self._slots_RN = np.zeros((1, 64), dtype=np.int32)

    def join(self, branch: Branch, states: Checkpoint) -> None:
        """Add a branch, with a copy of the states after its n_read tokens."""
        self._place(len(self.branches), 0, branch.slots())
        self._states.add(states)
        branch.row = len(self.branches)
        self.branches.append(branch)

    def extend(self, branch: Branch, slots: Slots) -> None:
        """The branch has slots more, the last of its own."""
        self._place(branch.row, len(branch.slots()) - len(slots), slots)

    def leave(self, branch: Branch) -> None:
        """Take a branch out."""
        last = self.branches.pop()
        self._states.remove(branch.row)
        if last is not branch:
            self.branches[branch.row] = last
            self._slots_RN[branch.row] = self._slots_RN[last.row]
            last.row = branch.row
        branch.row = -1

    def states_of(self, branch: Branch) -> Checkpoint:
        """A copy of the recurrent states of a branch."""
        return self._states.row(branch.row)

    def step(self) -> Tensor:
        """Each branch reads the last of its ids; logits (B, V) of the next ones. If it raises, no state can be trusted."""
        recurrent = self._states.layers()
        logits_BV = self._pass(self.branches, recurrent, slice(0, len(self.branches)))
        self._states.settle(recurrent)
        return logits_BV

    def step_apart(self, branch: Branch) -> Tensor:
        """One branch reads the last of its ids; logits (1, V). If it raises, its states and all others' are as before."""
        row = branch.row
        recurrent = layers_of(self._model.config.pattern, copied(self._states.row(row)))
        logits_1V = self._pass([branch], recurrent, slice(row, row + 1))
        self._states.replace_row(row, [tensor for number in sorted(recurrent) for tensor in tensors_of(recurrent[number])])
        return logits_1V

    def _pass(self, branches: Sequence[Branch], recurrent: dict[int, Recurrent], rows: slice) -> Tensor:
        device = self._model.embedding.weight.device
        lengths_B = torch.tensor([branch.n_read for branch in branches], dtype=torch.int32, device=device)
        longest = max(branch.n_read for branch in branches)
        slots_BN = torch.from_numpy(self._slots_RN[rows, : longest + 1]).to(device)
        layers: list[object] = [
            recurrent[number] if letter != "A" else PagedState(self._pool.layers[number], slots_BN)
            for number, letter in enumerate(self._model.config.pattern)
        ]
        states = DecoderStates(cast(list[MixerState], layers), longest, lengths_B)
        ids_B = torch.tensor([branch.ids[-1] for branch in branches], device=device)
        logits_BV = self._model.step(ids_B, states)
        for branch in branches:
            branch.n_read += 1
        return logits_BV

    def _place(self, row: int, start: int, slots: Slots) -> None:
        n_rows, width = self._slots_RN.shape
        end = start + len(slots)
        if row >= n_rows or end > width:
            bigger = np.zeros((max(n_rows, 2 * row), max(width, 2 * end if end > width else 0)), dtype=np.int32)
            bigger[:n_rows, :width] = self._slots_RN
            self._slots_RN = bigger
        self._slots_RN[row, start:end] = slots
