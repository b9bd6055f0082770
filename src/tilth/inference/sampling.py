"""The next token from logits: greedy, or drawn by temperature among the top k, the top p, or the ids that are allowed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tilth.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How a token is chosen. Each limit is applied to what the one before it left: allowed_ids, top_k, min_p, top_p.

    temperature 0 is greedy. top_k keeps exactly the k largest (of equal ones, those that torch.topk takes); min_p those of
    at least min_p times the largest probability; top_p the fewest whose probabilities, largest first, sum to top_p or more
    (Holtzman et al. 2020). allowed_ids are the only ones ever chosen, such as those of A, C, G and T. Raises UserError.
    """

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float = 1.0
    min_p: float = 0.0
    allowed_ids: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise UserError(f"the temperature is {self.temperature}", fix="use 0 for greedy, or a number above 0")
        if self.top_k is not None and self.top_k < 1:
            raise UserError(f"top_k is {self.top_k}", fix="use at least 1, or None for no limit")
        if not 0 < self.top_p <= 1:
            raise UserError(f"top_p is {self.top_p}", fix="use a share above 0; 1 is no limit")
        if not 0 <= self.min_p <= 1:
            raise UserError(f"min_p is {self.min_p}", fix="use a share of the largest probability, 0 to 1; 0 is no limit")
        if self.allowed_ids is not None and not self.allowed_ids:
            raise UserError("allowed_ids is empty: no token could be chosen", fix="name the ids, or None for all")

    def check_ids(self, vocab_size: int) -> None:
        """Raise UserError for an allowed id beyond the vocabulary."""
        for token in self.allowed_ids or ():
            if not 0 <= token < vocab_size:
                raise UserError(
                    f"allowed_ids has {token}, but the model knows 0 to {vocab_size - 1}", fix="take the ids from its tokenizer"
                )


def restrict(logits_BV: Tensor, allowed_ids: tuple[int, ...] | None) -> Tensor:
    """The logits, -inf where an id is not allowed."""
    if allowed_ids is None:
        return logits_BV
    ids_N = torch.tensor(allowed_ids, device=logits_BV.device)
    return torch.full_like(logits_BV, float("-inf")).index_copy(-1, ids_N, logits_BV.index_select(-1, ids_N))


def sample(logits_BV: Tensor, uniform_B: Tensor, how: Sampling) -> Tensor:
    """ids_B (int64), one per row: the argmax at temperature 0, else where the cumulative distribution passes uniform_B.

    uniform_B (fp32, in [0, 1)) is all the chance there is, so a row's token depends on its own logits and number alone.
    """
    logits_BV = restrict(logits_BV, how.allowed_ids)
    if how.temperature == 0:
        return logits_BV.argmax(-1)
    logits_BV = logits_BV.float()
    kept_BK = None
    if how.top_k is not None and how.top_k < logits_BV.shape[-1]:
        logits_BV, kept_BK = logits_BV.topk(how.top_k, dim=-1)
    # the maximum is subtracted before dividing: a tiny temperature then gives 0 and -inf, never NaN
    weights_BV = ((logits_BV - logits_BV.amax(-1, keepdim=True)) / how.temperature).exp()
    weights_BV = weights_BV.masked_fill(weights_BV < how.min_p, 0.0)  # the largest weight is 1
    if how.top_p < 1:
        weights_BV = _keep_top_p(weights_BV, how.top_p)
    # fp64, and 24 bits of chance: a product below the total can be passed, and never by a token of weight 0
    sums_BV = weights_BV.double().cumsum(-1)
    drawn_B1 = torch.searchsorted(sums_BV, uniform_B.double().unsqueeze(-1) * sums_BV[:, -1:], right=True)
    return (drawn_B1 if kept_BK is None else kept_BK.gather(-1, drawn_B1)).squeeze(-1)


def _keep_top_p(weights_BV: Tensor, top_p: float) -> Tensor:
    sorted_BV, order_BV = weights_BV.sort(dim=-1, descending=True, stable=True)
    sums_BV = sorted_BV.double().cumsum(-1)
    # a token stays while those before it do not reach the share: the one that reaches it stays too
    is_beyond_BV = sums_BV - sorted_BV >= top_p * sums_BV[:, -1:]
    return torch.zeros_like(weights_BV).scatter(-1, order_BV, sorted_BV.masked_fill(is_beyond_BV, 0.0))
