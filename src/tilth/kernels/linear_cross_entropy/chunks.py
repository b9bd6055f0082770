"""The product with the vocabulary by chunks of tokens: what the CPU and the Triton path share.

A chunk's logits become, in place, the gradients of the loss, and meet both factors of the product while they exist: the
idea of Liger (Hsu et al. 2024, arXiv 2410.10989) and of cut cross entropy (Wijmans et al. 2024, arXiv 2411.09009).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from tilth.kernels.products import outer_product, product

SHARE_OF_LOGITS = 20
"""A chunk holds at most this part of the tokens: 5 % of the logits."""
TILE, FEWEST_TOKENS, MOST_TOKENS = 128, 256, 4096
"""Fewer would make thin products; more would save nothing: the sum of the weight's gradient is read once a chunk."""

Gradients = tuple[Tensor | None, Tensor | None, Tensor | None]
Rows = Callable[[Tensor, Tensor, Tensor | None, bool], tuple[Tensor, Tensor]]
"""rows(logits_CV, targets_C, token_weights_C, with_gradient) -> loss_C, lse_C; the logits become their gradient in place."""


def chunk_size(n_tokens: int) -> int:
    """Return the tokens of a chunk: a twentieth, so that memory stays under 5 % of the logits', in whole tiles of 128.

    Of fewer than 5120 tokens it is 256, or all.
    """
    in_tiles = n_tokens // SHARE_OF_LOGITS // TILE * TILE
    return min(max(in_tiles, FEWEST_TOKENS), MOST_TOKENS, max(n_tokens, 1))


def by_chunks(
    rows: Rows,
    hidden_SD: Tensor,
    weight_VD: Tensor,
    bias_V: Tensor | None,
    targets_S: Tensor,
    token_weights_S: Tensor | None,
    dtype: torch.dtype,
    chunk_tokens: int,
    gradients: tuple[bool, bool],
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None, Tensor | None]:
    """Return loss_S, lse_S and the gradients of hidden, weight and bias, as `reference.forward` does.

    The gradient of the weight is summed in float32 (float64 for float64) and returned in the weight's own dtype.
    """
    hidden, weight = hidden_SD.to(dtype), weight_VD.to(dtype)
    bias = None if bias_V is None else bias_V.to(dtype)
    sums = torch.promote_types(dtype, torch.float32)
    (n_tokens, n_classes), size = (len(hidden), len(weight)), max(1, min(chunk_tokens, len(hidden)))
    loss_S, lse_S = hidden.new_empty(n_tokens, dtype=sums), hidden.new_empty(n_tokens, dtype=sums)
    dhidden = torch.empty_like(hidden, memory_format=torch.contiguous_format) if gradients[0] else None
    dweight = torch.zeros_like(weight, dtype=sums, memory_format=torch.contiguous_format) if gradients[1] else None
    dbias = None if bias is None or not gradients[1] else torch.zeros_like(bias, dtype=sums)
    # On a GPU a stride of whole 32-byte pieces, so that every row can be read in wide loads whatever the vocabulary. On a CPU
    # oneDNN falls back to a loop, a thousand times slower, where the rows of a transposed factor do not follow one another.
    width = n_classes if hidden.device.type == "cpu" else -(-n_classes // 16) * 16
    buffer = hidden.new_empty(size, width)[:, :n_classes]
    with torch.autocast(hidden.device.type, enabled=False):
        for start in range(0, n_tokens, size):
            part = slice(start, min(start + size, n_tokens))
            logits = buffer[: part.stop - start]
            if bias is None:
                product(hidden[part], weight.T, out=logits)
            else:
                torch.addmm(bias, hidden[part], weight.T, out=logits)
            weights = None if token_weights_S is None else token_weights_S[part]
            loss_S[part], lse_S[part] = rows(logits, targets_S[part], weights, any(gradients))
            if dhidden is not None:
                product(logits, weight, out=dhidden[part])
            if dweight is not None:
                _add_outer_product(dweight, logits, hidden[part])
            if dbias is not None:
                dbias += logits.sum(dim=0, dtype=sums)
    return (
        loss_S,
        lse_S,
        None if dhidden is None else dhidden.to(hidden_SD.dtype),
        None if dweight is None else dweight.to(weight_VD.dtype),
        None if dbias is None or bias_V is None else dbias.to(bias_V.dtype),
    )


def _add_outer_product(total: Tensor, left_CM: Tensor, right_CN: Tensor) -> None:
    """total += left^T @ right."""
    if total.is_cuda and total.dtype != left_CM.dtype:
        torch.addmm(total, left_CM.T, right_CN, out_dtype=total.dtype, out=total)
    elif total.is_cuda:
        total.addmm_(left_CM.T, right_CN)
    else:  # torch's CPU has no product of 16-bit factors that it returns in float32
        total += outer_product(left_CM, right_CN)
