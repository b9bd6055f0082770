"""The next token from logits: greedy, by temperature, among the top k."""

from __future__ import annotations

import torch
from torch import Tensor

from tilth.errors import UserError


def check_sampling(temperature: float, top_k: int | None) -> None:
    """Raise UserError for a temperature below 0 (or not finite) or a top_k below 1."""
    if not 0 <= temperature < float("inf"):
        raise UserError(f"the temperature is {temperature}", fix="use 0 for greedy, or a number above 0")
    if top_k is not None and top_k < 1:
        raise UserError(f"top_k is {top_k}", fix="use at least 1, or None for no limit")


def sample(logits_BV: Tensor, generator: torch.Generator, temperature: float = 0.0, top_k: int | None = None) -> Tensor:
    """ids_B (int64), one per row: the argmax at temperature 0, else drawn with generator (on logits' device).

    top_k keeps exactly the k largest logits (of equal ones, those that torch.topk takes).
    """
    check_sampling(temperature, top_k)
    if temperature == 0:
        return logits_BV.argmax(-1)
    logits_BV = logits_BV.float()
    kept_BK = None
    if top_k is not None and top_k < logits_BV.shape[-1]:
        logits_BV, kept_BK = logits_BV.topk(top_k, dim=-1)
    # the maximum is subtracted before dividing: a tiny temperature then gives 0 and -inf, never NaN
    scaled_BV = (logits_BV - logits_BV.amax(-1, keepdim=True)) / temperature
    drawn_B1 = torch.multinomial(scaled_BV.softmax(-1), 1, generator=generator)
    return (drawn_B1 if kept_BK is None else kept_BK.gather(-1, drawn_B1)).squeeze(-1)
