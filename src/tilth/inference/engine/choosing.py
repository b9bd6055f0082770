"""The next token of each branch, from its own logits, its own chance and its own limits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tilth.inference.engine.jobs import Branch
from tilth.inference.sampling import Sampling, sample


@dataclass(frozen=True)
class Chosen:
    """A token (None where the logits are not finite) and its log p with that of the likeliest, where asked for."""

    token_id: int | None
    log_p: float | None = None
    likeliest: tuple[tuple[int, float], ...] = ()


def choose(logits_BV: Tensor, branches: Sequence[Branch]) -> list[Chosen]:
    """One for each branch; log p is the model's own, before temperature and limits."""
    by_sampling: dict[Sampling, list[int]] = {}
    for place, branch in enumerate(branches):
        by_sampling.setdefault(branch.job.request.sampling, []).append(place)
    ids = [0] * len(branches)
    for sampling, places in by_sampling.items():
        rows_BV = logits_BV if len(places) == len(branches) else logits_BV[places]
        needs_chances = sampling.temperature > 0
        chances = [branches[i].chances[len(branches[i].ids)] if needs_chances else 0.0 for i in places]
        chances_B = torch.tensor(chances, dtype=torch.float32, device=logits_BV.device)
        for place, token in zip(places, sample(rows_BV, chances_B, sampling).tolist(), strict=True):
            ids[place] = token
    are_finite = logits_BV.amax(-1).isfinite().tolist()
    return [
        _with_log_p(logits_BV[place], ids[place], branch.job.request.n_logprobs) if are_finite[place] else Chosen(None)
        for place, branch in enumerate(branches)
    ]


def _with_log_p(logits_V: Tensor, token: int, n_likeliest: int | None) -> Chosen:
    if n_likeliest is None:
        return Chosen(token)
    log_p_V = logits_V.float().log_softmax(-1)
    values, ids = log_p_V.topk(min(n_likeliest, len(log_p_V)))
    return Chosen(token, float(log_p_V[token]), tuple(zip(ids.tolist(), values.tolist(), strict=True)))
