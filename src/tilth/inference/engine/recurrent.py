"""Recurrent states: of one text while it is read, of a checkpoint, and of the rows that decode, which come and go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

import torch
from torch import Tensor

from tilth.models.decoder import Decoder
from tilth.models.states import AttentionState, Mamba1State, Mamba2State

Recurrent = Mamba2State | Mamba1State
Checkpoint = list[Tensor]
"""The recurrent states of one row, (1, ...) each: convolution inputs and SSM state of one layer after the other."""


def empty_checkpoint(model: Decoder) -> Checkpoint:
    """The states before the first token."""
    layers = model.empty_states(1, capacity=1).layers
    return [tensor for layer in layers if not isinstance(layer, AttentionState) for tensor in tensors_of(layer)]


def tensors_of(layer: Recurrent) -> list[Tensor]:
    """The tensors of one layer's state in their order."""
    return [getattr(layer, field.name) for field in fields(layer)]


def layers_of(pattern: str, tensors: Sequence[Tensor]) -> dict[int, Recurrent]:
    """The layers' states that hold these tensors, by the layer's number."""
    pairs = iter(zip(tensors[::2], tensors[1::2], strict=True))
    return {
        number: (Mamba1State if letter == "S" else Mamba2State)(*next(pairs))
        for number, letter in enumerate(pattern)
        if letter != "A"
    }


def copied(tensors: Sequence[Tensor]) -> Checkpoint:
    """The same states in memory of their own: a pass over one token changes some in place."""
    return [tensor.clone() for tensor in tensors]


def are_finite(tensors: Sequence[Tensor]) -> bool:
    """Whether all of their numbers are numbers: what is not may not be gone on from by others."""
    return all(bool(tensor.isfinite().all()) for tensor in tensors)


class RowStates:
    """The states of the rows that decode: the first n_rows of buffers, so that a pass needs no copy.

    A row that leaves is replaced by the last one: a change of the batch copies one row, however many there are.
    """

    def __init__(self, model: Decoder) -> None:
        self._pattern = model.config.pattern
        self._buffers = empty_checkpoint(model)
        self.n_rows = 0

    def add(self, tensors: Sequence[Tensor]) -> None:
        """A row more, the last, from states (1, ...)."""
        self._buffers = [_with_room(buffer, self.n_rows + 1, self.n_rows) for buffer in self._buffers]
        for buffer, tensor in zip(self._buffers, tensors, strict=True):
            buffer[self.n_rows] = tensor[0]
        self.n_rows += 1

    def remove(self, row: int) -> None:
        """The last row takes this one's place."""
        self.n_rows -= 1
        for buffer in self._buffers:
            buffer[row] = buffer[self.n_rows]

    def row(self, row: int) -> Checkpoint:
        """A copy of one row's states."""
        return [buffer[row : row + 1].clone() for buffer in self._buffers]

    def layers(self) -> dict[int, Recurrent]:
        """The states of all rows, for a pass to change in place or to replace."""
        return layers_of(self._pattern, [buffer[: self.n_rows] for buffer in self._buffers])

    def settle(self, layers: dict[int, Recurrent]) -> None:
        """Take what a pass replaced."""
        tensors = [tensor for number in sorted(layers) for tensor in tensors_of(layers[number])]
        for buffer, tensor in zip(self._buffers, tensors, strict=True):
            if tensor.data_ptr() != buffer.data_ptr():
                buffer[: self.n_rows] = tensor

    def replace_row(self, row: int, tensors: Sequence[Tensor]) -> None:
        """Give one row other states."""
        for buffer, tensor in zip(self._buffers, tensors, strict=True):
            buffer[row] = tensor[0]


def _with_room(buffer: Tensor, n_rows: int, n_kept: int) -> Tensor:
    if n_rows <= len(buffer):
        return buffer
    bigger = torch.zeros((2 * n_rows, *buffer.shape[1:]), dtype=buffer.dtype, device=buffer.device)
    bigger[:n_kept] = buffer[:n_kept]
    return bigger
