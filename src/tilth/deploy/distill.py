"""Scale distillation: trains the scales of a delta, and nothing else, towards the fine-tune's logits.

Source: BitDelta (arXiv 2402.10193), section 3.1. As the paper says and its published code does not:
everything but the scales is frozen, and ignored positions take no part in the loss.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tilth.deploy.codecs import Parts, find_codec
from tilth.deploy.delta import Delta
from tilth.deploy.overlay import logits_of, overlaid
from tilth.deploy.teacher import Teacher
from tilth.errors import DeltaError
from tilth.models.decoder import Decoder

# the lowest error of 0.005 ... 0.1 on a small fine-tune, at 25, 100 and 200 steps
LEARNING_RATE = 0.05
N_WATCHED_BATCHES = 8
N_LOOKS = 4


@dataclass(frozen=True)
class Distillation:
    """What scale distillation did: logit MSE over the watched batches (None = no step was taken).

    best_step 0 = the start was best.
    """

    delta: Delta
    loss_start: float | None = None
    loss_best: float | None = None
    best_step: int = 0


def distill(
    base: Decoder,
    teacher: Teacher,
    delta: Delta,
    *,
    n_steps: int,
    learning_rate: float = LEARNING_RATE,
    on_step: Callable[[int, float], None] | None = None,
) -> Distillation:
    """Train the delta's scales for n_steps, one of the teacher's batches a step (in turn), and keep the best that were seen.

    The best has the lowest loss over the first 8 batches, looked at before, after and three times on the way, with the scales
    rounded as the file has them, so the result is never worse there than the start. on_step(step, loss of its batch). Holds the
    base, one decoded matrix, and what the fine-tune said. Raises DeltaError when the loss is not finite, or when there is nothing
    to train on.
    """
    factors = _Factors(delta)
    if not factors.leaves or n_steps == 0:
        return Distillation(delta)
    if not teacher.batches:
        raise DeltaError("there is no token to distil on", where="scale distillation", fix="Give tokens of longer documents.")
    watched = teacher.first(N_WATCHED_BATCHES)
    optimiser = torch.optim.AdamW(factors.leaves, lr=learning_rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: (1 + math.cos(math.pi * step / n_steps)) / 2)
    loss_start = loss_best = mean_logit_error(base, watched, delta)
    best = Distillation(delta, loss_start, loss_start)
    look_every = max(1, n_steps // N_LOOKS)
    for step in range(1, n_steps + 1):
        number = (step - 1) % len(teacher.batches)
        optimiser.zero_grad()
        loss = _backward(base, delta, factors.scales(), teacher, number)
        optimiser.step()
        schedule.step()
        if on_step is not None:
            on_step(step, loss)
        if step % look_every == 0 or step == n_steps:
            candidate = factors.rounded()
            watched_loss = mean_logit_error(base, watched, candidate)
            if watched_loss < loss_best:
                loss_best = watched_loss
                best = Distillation(candidate, loss_start, watched_loss, step)
    return best


def _backward(base: Decoder, delta: Delta, scales: dict[str, Parts], teacher: Teacher, number: int) -> float:
    """The loss of one batch; its gradients go to the scales."""
    with overlaid(base, delta, scales):
        loss = (logits_of(base, teacher.batches[number]) - teacher.logits(number)).square().mean()
        if not torch.isfinite(loss):
            fix = "Check the fine-tune, or lower the learning rate."
            raise DeltaError("the logits are not finite", where="scale distillation", fix=fix)
        loss.backward()
    return loss.item()


@torch.no_grad()
def mean_logit_error(base: Decoder, teacher: Teacher, delta: Delta) -> float:
    """Mean squared difference between the logits of base + delta and of the teacher, over its batches."""
    total, n_values = 0.0, 0
    with overlaid(base, delta):
        for number, batch in enumerate(teacher.batches):
            error_SV = logits_of(base, batch) - teacher.logits(number)
            total += error_SV.double().square().sum().item()
            n_values += error_SV.numel()
    return total / n_values


class _Factors:
    """The scales of a delta as multiples of their start: one learning rate then fits scales of any size."""

    def __init__(self, delta: Delta) -> None:
        self.delta = delta
        self.starts: dict[tuple[str, str], Tensor] = {
            (name, part): own.parts[part].float()
            for name, own in sorted(delta.encoded.items())
            for part in find_codec(own.codec).scales(own.parts)
        }
        self.leaves = [torch.ones_like(start).requires_grad_() for start in self.starts.values()]

    def scales(self) -> dict[str, Parts]:
        """Of each tensor its scales, fp32, differentiable in the factors."""
        found: dict[str, Parts] = {}
        for ((name, part), start), factor in zip(self.starts.items(), self.leaves, strict=True):
            found.setdefault(name, {})[part] = start * factor
        return found

    @torch.no_grad()
    def rounded(self) -> Delta:
        """The delta with these scales, in the types that its file has."""
        encoded = dict(self.delta.encoded)
        for name, scales in self.scales().items():
            own = encoded[name]
            parts = {part: scale.to(own.parts[part].dtype) for part, scale in scales.items()}
            encoded[name] = replace(own, parts=own.parts | parts)
        return replace(self.delta, encoded=encoded)
