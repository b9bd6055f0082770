"""Scale distillation: trains the scales of a delta, and nothing else, towards the fine-tune's logits.

Source: BitDelta (arXiv 2402.10193), section 3.1. As the paper says and its published code does not:
everything but the scales is frozen, and ignored positions take no part in the loss.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.func import functional_call

from tilth.deploy.codec import Delta, Encoded, rebuild
from tilth.deploy.token_batches import TokenBatch
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
    tuned: Decoder,
    delta: Delta,
    batches: Sequence[TokenBatch],
    *,
    n_steps: int,
    learning_rate: float = LEARNING_RATE,
    on_step: Callable[[int, float], None] | None = None,
) -> Distillation:
    """Train the delta's scales for n_steps, one batch a step (in turn), and keep the best that were seen.

    The best has the lowest loss over the first 8 batches, looked at before, after and three times
    on the way, so the result is never worse there than the start. on_step(step, loss of its batch).
    Raises DeltaError when the loss is not finite, or when there is nothing to train on.
    """
    if not delta.encoded or n_steps == 0:
        return Distillation(delta)
    batches = [batch for batch in batches if bool(batch.kept.any())]
    if not batches:
        raise DeltaError("there is no token to distil on", where="scale distillation", fix="Give tokens of longer documents.")
    watched = batches[:N_WATCHED_BATCHES]
    # trained as multiples of the start: one learning rate then fits scales of any size
    factors = torch.ones(len(delta.encoded), requires_grad=True)
    optimiser = torch.optim.AdamW([factors], lr=learning_rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: (1 + math.cos(math.pi * step / n_steps)) / 2)
    loss_start = loss_best = mean_logit_error(base, tuned, delta, watched)
    best = Distillation(delta, loss_start, loss_start)
    look_every = max(1, n_steps // N_LOOKS)
    for step in range(1, n_steps + 1):
        batch = batches[(step - 1) % len(batches)]
        loss = _train_step(base, tuned, scale_by(delta, factors), batch, optimiser)
        schedule.step()
        if on_step is not None:
            on_step(step, loss)
        if step % look_every == 0 or step == n_steps:
            candidate = scale_by(delta, factors.detach())
            watched_loss = mean_logit_error(base, tuned, candidate, watched)
            if watched_loss < loss_best:
                loss_best = watched_loss
                best = Distillation(candidate, loss_start, watched_loss, step)
    return best


def scale_by(delta: Delta, factors: Tensor) -> Delta:
    """The delta with the scale of its i-th matrix, in the order of names, multiplied by factors[i]."""
    encoded = {}
    for factor, (name, matrix) in zip(factors, sorted(delta.encoded.items()), strict=True):
        encoded[name] = Encoded(matrix.shape, matrix.parts | {"scale": matrix.parts["scale"] * factor})
    return replace(delta, encoded=encoded)


def mean_logit_error(base: Decoder, tuned: Decoder, delta: Delta, batches: Sequence[TokenBatch]) -> float:
    """Mean squared difference between the logits of base + delta and of tuned, over the kept positions."""
    total, n_values = 0.0, 0
    with torch.no_grad():
        weights = _weights(base, delta)
        for batch in batches:
            error_SV = _logits(base, batch, weights) - _logits(tuned, batch)
            total += error_SV.double().square().sum().item()
            n_values += error_SV.numel()
    return total / n_values


def _train_step(base: Decoder, tuned: Decoder, delta: Delta, batch: TokenBatch, optimiser: torch.optim.Optimizer) -> float:
    with torch.no_grad():
        wanted_SV = _logits(tuned, batch)
    loss = (_logits(base, batch, _weights(base, delta)) - wanted_SV).square().mean()
    if not torch.isfinite(loss):
        raise DeltaError(
            "the logits are not finite", where="scale distillation", fix="Check the fine-tune, or lower the learning rate."
        )
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    return loss.item()


def _weights(base: Decoder, delta: Delta) -> dict[str, Tensor]:
    return {name: rebuild(delta, name, tensor.detach()) for name, tensor in base.state_dict().items()}


def _logits(model: Decoder, batch: TokenBatch, weights: dict[str, Tensor] | None = None) -> Tensor:
    """fp32 (kept positions, vocab_size), with `weights` in place of the model's own."""
    inputs = (batch.ids_BT, batch.segments_BT)
    logits_BTV = model(*inputs) if weights is None else functional_call(model, weights, inputs)
    return logits_BTV[batch.kept].float()
