"""Kullback-Leibler divergence of a student's predictions and a teacher's, as a sum over tokens: logits are never whole.

A sum and a count, as all losses here: a mean over tokens, whatever the length of the sequences. (torch's "batchmean" on
logits (B, T, V) divides by B, so that a loss grows with T.) The temperature divides the logits of both sides, and nothing
multiplies the loss by its square, as Hinton et al. (2015) do to keep the gradients' scale.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tilth.kernels.linear_cross_entropy.chunks import by_chunks, chunk_size
from tilth.kernels.products import product
from tilth.models.losses import IGNORE_INDEX


class Buckets(NamedTuple):
    """What a teacher says of C tokens: log p of each of V ids, or of k ids and, last, of all others together."""

    log_p: Tensor  # (C, V), or (C, k + 1) whose last column is -inf when k = V
    ids: Tensor | None = None  # (C, k) int64; None: all, in their order


Teacher = Callable[[Tensor], Buckets]
"""teacher(places_C) -> what it says of those of the S tokens, at the temperature of the loss."""


def of_hidden(hidden_SD: Tensor, weight_VD: Tensor, temperature: float) -> Teacher:
    """A teacher whose logits are hidden_SD @ weight_VD.T, made for the tokens that are asked for."""
    dtype = _product_dtype(hidden_SD)
    hidden, weight = hidden_SD.detach().to(dtype), weight_VD.detach().to(dtype)

    def say(places_C: Tensor) -> Buckets:
        logits_CV = product(hidden[places_C], weight.T)
        return Buckets(torch.log_softmax(logits_CV.to(_sums_dtype(dtype)) / temperature, -1))

    return say


def of_stored(log_p_SK: Tensor, ids_Sk: Tensor | None, temperature: float) -> Teacher:
    """A teacher whose log p were stored: of all ids at temperature 1, or of the likeliest `ids_Sk` and the rest at `temperature`.

    They are brought to a sum of 1 again, of which rounding to fp16 left a little more or less.
    """

    def say(places_C: Tensor) -> Buckets:
        log_p_CK = log_p_SK[places_C].to(_sums_dtype(log_p_SK.dtype))
        if ids_Sk is None:
            return Buckets(torch.log_softmax(log_p_CK / temperature, -1))
        return Buckets(torch.log_softmax(log_p_CK, -1), ids_Sk[places_C].long())

    return say


def top_k(said: Buckets, k: int) -> Buckets:
    """Of what is said of all ids the k likeliest, their log p and that of the rest: what `of_stored` is given."""
    log_p_Ck, ids_Ck = said.log_p.topk(k, -1)
    return Buckets(torch.cat([log_p_Ck, _rest(said.log_p, ids_Ck)], -1), ids_Ck)


def divergence(log_q_CV: Tensor, teacher: Buckets, *, is_reverse: bool) -> tuple[Tensor, Tensor]:
    """Return KL(teacher || student), reversed KL(student || teacher), of each token (C,), and its gradient.

    log_q_CV is the log softmax of the student's logits, and the gradient (C, V) that by these logits. Over buckets: ids that
    the teacher does not tell apart count together.
    """
    log_p, ids = teacher
    log_q = log_q_CV if ids is None else torch.cat([log_q_CV.gather(1, ids), _rest(log_q_CV, ids)], -1)
    if is_reverse:
        loss_C = _expected(log_q, log_q - log_p)
        # dq_b / dz_j = q_j ([j in b] - q_b), so d sum_b q_b log(q_b / p_b) / dz_j = q_j (log(q_b / p_b) - KL), j in b
        ratio = _spread(log_q - log_p, ids, log_q_CV)
        return loss_C, log_q_CV.exp() * (ratio - loss_C.unsqueeze(1))
    loss_C = _expected(log_p, log_p - log_q)
    # d -sum_b p_b log q_b / dz_j = q_j - p_b q_j / q_b, j in b
    target = log_p if ids is None else _spread(log_p - log_q, ids, log_q_CV) + log_q_CV
    return loss_C, log_q_CV.exp() - target.exp()


def linear_distillation(
    hidden_SD: Tensor,
    weight_VD: Tensor,
    targets_S: Tensor,
    teacher: Teacher,
    *,
    is_reverse: bool = False,
    temperature: float = 1.0,
    ce_weight: float = 0.0,
    chunk_tokens: int | None = None,
    each_S: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return (1 - ce_weight) * KL + ce_weight * cross entropy of the targets as (sum, count).

    The student's logits are hidden_SD @ weight_VD.T, held for `chunk_tokens` tokens at a time (None: as linear_cross_entropy);
    they become their gradient there and then, and so are never made twice. Targets of -100 do not count, and the teacher is
    not asked about them: it is asked by places among the S. `each_S` is filled with the loss of each token, 0 where none is.
    Shapes: hidden_SD (S, D), weight_VD (V, D), targets_S (S,) int64. In float32 (float64 for float64).
    """
    kept_S = targets_S != IGNORE_INDEX
    places_N, targets_N, hidden_ND = kept_S.nonzero().squeeze(1), targets_S[kept_S], hidden_SD[kept_S]
    dtype = _product_dtype(hidden_SD)
    number_N = torch.arange(len(targets_N), device=targets_N.device)

    def rows(logits_CV: Tensor, number_C: Tensor, _: Tensor | None, with_gradient: bool) -> tuple[Tensor, Tensor]:
        """The losses of tokens; their logits become the gradient."""
        wide_CV = logits_CV.to(_sums_dtype(dtype))
        log_q_CV = torch.log_softmax(wide_CV / temperature, -1)
        loss_C, gradient_CV = divergence(log_q_CV, teacher(places_N[number_C]), is_reverse=is_reverse)
        loss_C, gradient_CV = loss_C * (1 - ce_weight), gradient_CV * ((1 - ce_weight) / temperature)
        if ce_weight:
            log_p_CV = log_q_CV if temperature == 1 else torch.log_softmax(wide_CV, -1)
            index_C1 = targets_N[number_C].unsqueeze(1)
            loss_C = loss_C - ce_weight * log_p_CV.gather(1, index_C1).squeeze(1)
            gradient_CV += ce_weight * log_p_CV.exp()
            gradient_CV.scatter_add_(1, index_C1, torch.full_like(loss_C, -ce_weight).unsqueeze(1))
        if with_gradient:
            logits_CV.copy_(gradient_CV)
        return loss_C, loss_C

    trained = [torch.is_grad_enabled() and tensor.requires_grad for tensor in (hidden_ND, weight_VD)]
    size = chunk_tokens or chunk_size(len(targets_N))
    loss, loss_N = _Summed.apply(hidden_ND, weight_VD, number_N, rows, dtype, size, trained)
    if each_S is not None:
        each_S.zero_()[kept_S] = loss_N.to(each_S.dtype)
    return loss, kept_S.sum()


class _Summed(torch.autograd.Function):
    """The sum of the losses of `rows`, whose gradients are made with it."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, number: Tensor, rows: Any, dtype: torch.dtype, size: int, trained: list[bool]
    ) -> tuple[Tensor, Tensor]:
        loss_N, _, dhidden, dweight, _ = by_chunks(
            rows, hidden, weight, None, number, None, dtype, size, (trained[0], trained[1])
        )
        ctx.gradients = dhidden, dweight
        ctx.mark_non_differentiable(loss_N)
        return loss_N.sum(), loss_N

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return *(None if gradient is None else gradient * grads[0] for gradient in ctx.gradients), *[None] * 5


def _rest(log_p_CV: Tensor, ids_Ck: Tensor) -> Tensor:
    """The log (C, 1) of what all others than the ids have together."""
    return log_p_CV.scatter(1, ids_Ck, -torch.inf).logsumexp(-1, keepdim=True)


def _expected(log_p: Tensor, values: Tensor) -> Tensor:
    """The sum over the last axis of p * values, where p = 0 counts nothing."""
    return torch.where(log_p > -torch.inf, log_p.exp() * values, 0).sum(-1)


def _spread(values_Cb: Tensor, ids_Ck: Tensor | None, like_CV: Tensor) -> Tensor:
    """The value of its bucket for each id (C, V)."""
    if ids_Ck is None:
        return values_Cb
    return values_Cb[:, -1:].expand_as(like_CV).scatter(1, ids_Ck, values_Cb[:, :-1])


def _product_dtype(hidden: Tensor) -> torch.dtype:
    device = hidden.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype


def _sums_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)
