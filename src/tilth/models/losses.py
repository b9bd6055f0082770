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
    hidden_BTD: Tensor,
    weight_VD: Tensor,
    targets_BT: Tensor,
    chunk_tokens: int | None = None,
    each_BT: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """token_cross_entropy(hidden @ weight.T, targets), holding the logits of chunk_tokens tokens at a time.

    `each_BT`, where given, is filled with the loss of each token, 0 where the target is -100; no gradient flows through it.
    """
    kept = targets_BT != IGNORE_INDEX
    # ignored tokens cost nothing: they are dropped before the product with the vocabulary
    hidden_SD, targets_S = hidden_BTD[kept], targets_BT[kept]
    each_S = None if each_BT is None else each_BT.new_empty(len(targets_S))
    loss, count, _ = kernels.linear_cross_entropy(
        hidden_SD, weight_VD, targets_S, ignore_index=IGNORE_INDEX, each_S=each_S, chunk_tokens=chunk_tokens
    )
    if each_BT is not None and each_S is not None:
        each_BT.zero_()[kept] = each_S
    return loss, count
