"""Batches of real token sequences, in the order that a run with this seed would read them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tilth.tokenize.order import RunOrder
from tilth.tokenize.shards import IGNORED, TokenSet


@dataclass(frozen=True)
class TokenBatch:
    """ids int64, targets int64 (-100 = ignored), segments int32: each (B, T)."""

    ids_BT: Tensor
    targets_BT: Tensor
    segments_BT: Tensor

    @property
    def kept(self) -> Tensor:
        """bool (B, T): where a prediction counts."""
        return self.targets_BT != IGNORED


def read_batches(
    tokens: TokenSet, *, n_batches: int, batch_size: int, seq_len: int, seed: int, first: int = 0
) -> list[TokenBatch]:
    """Batches first .. first + n_batches - 1; batches of different numbers are disjoint within one epoch of the tokens."""
    order = RunOrder(tokens.lengths, seq_len, batch_size, seed)
    return [_stack([tokens.sequence(plan) for plan in order.sequences(first + i)]) for i in range(n_batches)]


def _stack(sequences: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> TokenBatch:
    return TokenBatch(*(torch.from_numpy(np.stack(column)) for column in zip(*sequences, strict=True)))
