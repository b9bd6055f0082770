"""What a fine-tune says of some sequences, kept when the fine-tune itself is gone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tilth.deploy.token_batches import TokenBatch
from tilth.kernels import linear
from tilth.models.decoder import Decoder


@dataclass(frozen=True)
class Teacher:
    """The fine-tune's hidden states before the head at the positions that count, and its head.

    Logits are vocab_size / d_model times larger, so they are made again when they are asked for. hidden: of each batch (S, D).
    """

    batches: Sequence[TokenBatch]
    hidden: Sequence[Tensor]
    head_VD: Tensor

    @classmethod
    def of(cls, tuned: Decoder, batches: Sequence[TokenBatch]) -> Teacher:
        """Let tuned read the batches; those without a position that counts are left out. Of tuned only the head is kept."""
        batches = [batch for batch in batches if bool(batch.kept.any())]
        head_VD = tuned.head_weight.detach().clone()
        return cls(batches, [hidden_states(tuned, batch) for batch in batches], head_VD)

    def first(self, n: int) -> Teacher:
        """The same, of the first n batches."""
        return Teacher(self.batches[:n], self.hidden[:n], self.head_VD)

    def logits(self, number: int) -> Tensor:
        """fp32 (S, V) of the batch of that number."""
        return linear(self.hidden[number], self.head_VD).float()


@torch.no_grad()
def hidden_states(model: Decoder, batch: TokenBatch) -> Tensor:
    """(S, D): what the head reads, at the positions that count."""
    hidden_BTD: Tensor = model.hidden(batch.ids_BT, batch.segments_BT)
    return hidden_BTD[batch.kept]
