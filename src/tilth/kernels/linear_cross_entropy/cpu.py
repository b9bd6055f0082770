"""Cross entropy on the CPU: a chunk's logits are turned into gradients a few rows at a time, while they are in the cache."""

from __future__ import annotations

import torch
from torch import Tensor

from tilth.kernels.backend import compute_dtype
from tilth.kernels.linear_cross_entropy.chunks import by_chunks
from tilth.kernels.linear_cross_entropy.targets import check_range
from tilth.kernels.linear_cross_entropy.terms import Terms

# Logits per block of rows: with their exponentials 1 MiB of float32, which a core's second cache holds.
_BLOCK_LOGITS = 131_072


def forward(
    hidden_SD: Tensor,
    weight_VD: Tensor,
    bias_V: Tensor | None,
    targets_S: Tensor,
    token_weights_S: Tensor | None,
    terms: Terms,
    dtype: torch.dtype,
    chunk_tokens: int,
    gradients: tuple[bool, bool],
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None, Tensor | None]:
    """Return loss_S, lse_S and the gradients of sum(token_weights * loss) that `gradients` (hidden, weight and bias) asks for.

    Ignored tokens are dropped before the product: they cost nothing.
    """
    check_range(targets_S, len(weight_VD), terms.ignore_index)

    def rows(logits: Tensor, targets: Tensor, weights: Tensor | None, with_gradient: bool) -> tuple[Tensor, Tensor]:
        return _rows(logits, targets, weights, terms, logits if with_gradient else None)

    kept_S = targets_S != terms.ignore_index
    if kept_S.all():
        return by_chunks(rows, hidden_SD, weight_VD, bias_V, targets_S, token_weights_S, dtype, chunk_tokens, gradients)
    weights = None if token_weights_S is None else token_weights_S[kept_S]
    loss, lse, dhidden, dweight, dbias = by_chunks(
        rows, hidden_SD[kept_S], weight_VD, bias_V, targets_S[kept_S], weights, dtype, chunk_tokens, gradients
    )
    return _spread(loss, kept_S), _spread(lse, kept_S), None if dhidden is None else _spread(dhidden, kept_S), dweight, dbias


def _spread(kept: Tensor, kept_S: Tensor) -> Tensor:
    """Put 0 between the kept tokens, where the ignored ones were."""
    whole = kept.new_zeros(len(kept_S), *kept.shape[1:])
    whole[kept_S] = kept
    return whole


def row_losses(logits_SV: Tensor, targets_S: Tensor, terms: Terms) -> tuple[Tensor, Tensor]:
    """Return the loss of every token and the log of its sum of exponentials, both 0 where it is ignored: (S,), (S,)."""
    check_range(targets_S, logits_SV.shape[1], terms.ignore_index)
    return _rows(logits_SV, targets_S, None, terms, None)


def row_gradients(dloss_S: Tensor, logits_SV: Tensor, targets_S: Tensor, lse_S: Tensor, terms: Terms) -> Tensor:
    """Return the gradient of the logits (S, V)."""
    gradient_SV = torch.empty_like(logits_SV, memory_format=torch.contiguous_format)
    _rows(logits_SV, targets_S, dloss_S, terms, gradient_SV)
    return gradient_SV


def _rows(
    logits_SV: Tensor, targets_S: Tensor, weights_S: Tensor | None, terms: Terms, gradient_SV: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return loss_S and lse_S; write the gradient of sum(weights * loss) to `gradient_SV`, which may be the logits themselves."""
    dtype = compute_dtype(logits_SV)
    n_tokens, n_classes = logits_SV.shape
    counts_S = targets_S != terms.ignore_index
    index_S1 = torch.where(counts_S, targets_S, 0).unsqueeze(1)
    loss_S, lse_S = logits_SV.new_empty(n_tokens, dtype=dtype), logits_SV.new_empty(n_tokens, dtype=dtype)
    n_rows = max(1, _BLOCK_LOGITS // n_classes)
    for start in range(0, n_tokens, n_rows):
        part = slice(start, min(start + n_rows, n_tokens))
        x, index, counts = logits_SV[part].to(dtype), index_S1[part], counts_S[part]
        if terms.softcap:
            x = torch.tanh(x / terms.softcap).mul_(terms.softcap)
        top = x.amax(dim=-1, keepdim=True)
        p = torch.softmax(x, dim=-1)
        # the largest p is 1 / sum(exp(x - top)): one exponential serves the loss and its gradient
        log_sum = p.amax(dim=-1).log_().neg_()
        lse = top.squeeze(1) + log_sum
        loss = _combine(x, index, top, log_sum, lse, terms)
        loss_S[part], lse_S[part] = loss.masked_fill_(~counts, 0), lse.masked_fill(~counts, 0)
        if gradient_SV is not None:
            weights = counts.to(dtype) if weights_S is None else weights_S[part].to(dtype) * counts
            gradient = _gradient(p, x, index, lse, terms)
            if gradient_SV.dtype == dtype:
                torch.mul(gradient, weights.unsqueeze(1), out=gradient_SV[part])
            else:
                gradient_SV[part] = gradient.mul_(weights.unsqueeze(1))
    return loss_S, lse_S


def _combine(x: Tensor, index: Tensor, top: Tensor, log_sum: Tensor, lse: Tensor, terms: Terms) -> Tensor:
    # large logits cancel against the largest one first, so that little is lost
    loss = (top - x.gather(1, index)).squeeze(1) + log_sum
    if terms.label_smoothing:
        mean_loss = (top - x).mean(dim=-1) + log_sum
        loss = (1 - terms.label_smoothing) * loss + terms.label_smoothing * mean_loss
    return loss + terms.z_loss * lse.square() if terms.z_loss else loss


def _gradient(p: Tensor, x: Tensor, index: Tensor, lse: Tensor, terms: Terms) -> Tensor:
    """Return dloss / dlogits; overwrites p, and x where it is capped."""
    gradient = p
    if terms.z_loss:
        gradient *= (1 + 2 * terms.z_loss * lse).unsqueeze(1)
    if terms.label_smoothing:
        gradient -= terms.label_smoothing / gradient.shape[1]
    target = gradient.gather(1, index)
    gradient.scatter_(1, index, target - (1 - terms.label_smoothing))
    if terms.softcap:  # d(cap * tanh(a / cap)) / da = 1 - tanh^2
        gradient *= 1 - x.div_(terms.softcap).square_()
    return gradient
