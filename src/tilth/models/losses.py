"""Token losses as (sum, count), so that micro-batches and ranks add up exactly."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, log_softmax

IGNORE_INDEX = -100
CHUNK_TOKENS = 512


def token_cross_entropy(logits_BTV: Tensor, targets_BT: Tensor) -> tuple[Tensor, Tensor]:
    """Sum of -log p(target) in fp32 and the number of targets that count (those other than -100)."""
    loss = cross_entropy(logits_BTV.flatten(0, -2).float(), targets_BT.flatten(), ignore_index=IGNORE_INDEX, reduction="sum")
    return loss, (targets_BT != IGNORE_INDEX).sum()


def linear_cross_entropy(
    hidden_BTD: Tensor, weight_VD: Tensor, targets_BT: Tensor, chunk_tokens: int = CHUNK_TOKENS
) -> tuple[Tensor, Tensor]:
    """token_cross_entropy(hidden @ weight.T, targets), holding the logits of chunk_tokens tokens at a time.

    The gradients are made in the forward pass while a chunk's logits exist (the idea of Liger's and
    of Apple's cut cross entropy), so tokens x vocabulary values never exist at once.
    """
    kept = targets_BT != IGNORE_INDEX
    # ignored tokens cost nothing: they are dropped before the product with the vocabulary
    loss = _LinearCrossEntropy.apply(hidden_BTD[kept], weight_VD, targets_BT[kept], chunk_tokens)
    return loss, kept.sum()


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_SD: Tensor, weight_VD: Tensor, targets_S: Tensor, chunk_tokens: int) -> Tensor:
        ctx.dtypes = hidden_SD.dtype, weight_VD.dtype
        # autocast is off inside a Function's out= and in-place products, so its dtype is applied here
        dtype = _product_dtype(hidden_SD)
        hidden_SD, weight_VD = hidden_SD.to(dtype), weight_VD.to(dtype)
        sums = torch.promote_types(dtype, torch.float32)
        needs_grad = any(ctx.needs_input_grad[:2])
        grad_hidden = torch.empty_like(hidden_SD) if needs_grad else None
        grad_weight = torch.zeros_like(weight_VD, dtype=sums) if needs_grad else None
        loss = hidden_SD.new_zeros((), dtype=sums)
        with torch.autocast(hidden_SD.device.type, enabled=False):
            for start in range(0, len(hidden_SD), chunk_tokens):
                part = slice(start, start + chunk_tokens)
                hidden_CD, targets_C1 = hidden_SD[part], targets_S[part, None]
                log_p_CV = log_softmax(hidden_CD @ weight_VD.T, dim=-1, dtype=sums)
                loss -= log_p_CV.gather(1, targets_C1).sum()
                if grad_hidden is None or grad_weight is None:
                    continue
                grad_CV = log_p_CV.exp_()
                grad_CV.scatter_(1, targets_C1, grad_CV.gather(1, targets_C1) - 1)
                grad_CV = grad_CV.to(dtype)
                torch.mm(grad_CV, weight_VD, out=grad_hidden[part])
                _add_product(grad_weight, grad_CV.T, hidden_CD)
        ctx.save_for_backward(grad_hidden, grad_weight)
        return loss

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        grad_hidden, grad_weight = ctx.saved_tensors
        hidden_dtype, weight_dtype = ctx.dtypes
        scale = grads[0]
        # fp32 gradients where the master weights are fp32; the scale (1 / tokens) is applied after the cast up
        return grad_hidden.to(hidden_dtype) * scale, grad_weight.to(weight_dtype) * scale, None, None


def _product_dtype(hidden_SD: Tensor) -> torch.dtype:
    device = hidden_SD.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden_SD.dtype


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    if total.dtype == left.dtype:
        total.addmm_(left, right)
    else:
        total += left @ right
