"""Operations on a decoder's states: fork a prompt for many continuations, keep some rows, join batches, count bytes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from tilth.models.states import AttentionState, DecoderStates


def select_rows(states: DecoderStates, rows: Tensor) -> DecoderStates:
    """New states whose row i is row rows[i] of states (int64 indices, may repeat); shares no memory with it."""
    layers = [
        dataclasses.replace(layer, **{name: tensor.index_select(0, rows) for name, tensor in _tensors(layer)})
        for layer in states.layers
    ]
    lengths_B = None if states.lengths_B is None else states.lengths_B.index_select(0, rows)
    return DecoderStates(layers, states.n_tokens, lengths_B)


def fork(states: DecoderStates, n_copies: int) -> DecoderStates:
    """Each row n_copies times in sequence, so that one prefill serves n_copies continuations."""
    n_rows, device = _batch(states)
    return select_rows(states, torch.arange(n_rows, device=device).repeat_interleave(n_copies))


def join(parts: Sequence[DecoderStates], capacity: int = 0) -> DecoderStates:
    """One batch of the rows of all parts, which may have read different numbers of tokens; shares no memory with them.

    capacity is the room for keys before they must grow, if more than the largest that a part has.
    """
    n_tokens = max(part.n_tokens for part in parts)
    layers = []
    for same in zip(*(part.layers for part in parts), strict=True):
        columns: dict[str, Any] = {name: [getattr(layer, name) for layer in same] for name, _ in _tensors(same[0])}
        if isinstance(same[0], AttentionState):
            room = max(capacity, *(layer.keys.shape[1] for layer in same))
            columns = {name: [_widen(buffer, room) for buffer in buffers] for name, buffers in columns.items()}
        joined = {name: torch.cat(tensors) for name, tensors in columns.items()}
        changed = {"n_tokens": n_tokens} if isinstance(same[0], AttentionState) else {}
        layers.append(dataclasses.replace(same[0], **joined, **changed))
    are_equal = all(part.lengths_B is None and part.n_tokens == n_tokens for part in parts)
    return DecoderStates(layers, n_tokens, None if are_equal else torch.cat([_lengths(part) for part in parts]))


def size_bytes(states: DecoderStates) -> int:
    """Memory of all buffers, the unused room for keys and values included."""
    return sum(tensor.nbytes for layer in states.layers for _, tensor in _tensors(layer))


def _widen(buffer_BN: Tensor, capacity: int) -> Tensor:
    missing = capacity - buffer_BN.shape[1]
    return (
        torch.cat([buffer_BN, buffer_BN.new_zeros(buffer_BN.shape[0], missing, *buffer_BN.shape[2:])], 1)
        if missing
        else buffer_BN
    )


def _lengths(states: DecoderStates) -> Tensor:
    if states.lengths_B is not None:
        return states.lengths_B
    n_rows, device = _batch(states)
    return torch.full((n_rows,), states.n_tokens, dtype=torch.int32, device=device)


def _tensors(layer: Any) -> Iterator[tuple[str, Tensor]]:
    for field in dataclasses.fields(layer):
        value = getattr(layer, field.name)
        if isinstance(value, Tensor):
            yield field.name, value


def _batch(states: DecoderStates) -> tuple[int, torch.device]:
    _, first = next(_tensors(states.layers[0]))
    return first.shape[0], first.device
