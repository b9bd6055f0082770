"""Operations on a decoder's states: fork a prompt for many continuations, keep some rows, count bytes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import torch
from torch import Tensor

from tilth.models.states import DecoderStates, MixerState


def select_rows(states: DecoderStates, rows: Tensor) -> DecoderStates:
    """New states whose row i is row rows[i] of states (int64 indices, may repeat); shares no memory with it."""
    layers: list[MixerState] = []
    for layer in states.layers:
        changed = {name: tensor.index_select(0, rows) for name, tensor in _tensors(layer)}
        layers.append(dataclasses.replace(layer, **changed))
    return DecoderStates(layers, states.n_tokens)


def fork(states: DecoderStates, n_copies: int) -> DecoderStates:
    """Each row n_copies times in sequence, so that one prefill serves n_copies continuations."""
    n_rows, device = _batch(states)
    return select_rows(states, torch.arange(n_rows, device=device).repeat_interleave(n_copies))


def size_bytes(states: DecoderStates) -> int:
    """Memory of all buffers, the unused room for keys and values included."""
    return sum(tensor.nbytes for layer in states.layers for _, tensor in _tensors(layer))


def _tensors(layer: MixerState) -> Iterator[tuple[str, Tensor]]:
    for field in dataclasses.fields(layer):
        value = getattr(layer, field.name)
        if isinstance(value, Tensor):
            yield field.name, value


def _batch(states: DecoderStates) -> tuple[int, torch.device]:
    _, first = next(_tensors(states.layers[0]))
    return first.shape[0], first.device
