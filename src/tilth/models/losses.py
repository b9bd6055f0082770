"""Token losses as (sum, count), so that micro-batches and ranks add up exactly."""

from __future__ import annotations

from torch import Tensor

from tilth import kernels

IGNORE_INDEX = -100


def token_cross_entropy(logits_BTV: Tensor, targets_BT: Tensor) -> tuple[Tensor, Tensor]:
    """Sum of -log p(target) in fp32 and the number of targets that count (those other than -100)."""
    logits_SV = logits_BTV.flatten(0, -2).float()
    loss, count, _ = kernels.cross_entropy(logits_SV, targets_BT.flatten(), ignore_index=IGNORE_INDEX)
    return loss, count


def linear_cross_entropy(
    hidden_BTD: Tensor, weight_VD: Tensor, targets_BT: Tensor, chunk_tokens: int | None = None
) -> tuple[Tensor, Tensor]:
    """token_cross_entropy(hidden @ weight.T, targets), holding the logits of chunk_tokens tokens at a time."""
    kept = targets_BT != IGNORE_INDEX
    # ignored tokens cost nothing: they are dropped before the product with the vocabulary
    loss, count, _ = kernels.linear_cross_entropy(
        hidden_BTD[kept], weight_VD, targets_BT[kept], ignore_index=IGNORE_INDEX, chunk_tokens=chunk_tokens
    )
    return loss, count
