"""The loss on held-out tokens, shared among the processes."""

from __future__ import annotations

import math

import torch

from tilth.errors import TrainError
from tilth.models.decoder import Decoder
from tilth.tokenize.mixture import TokenMixture
from tilth.tokenize.order import SequencePlan
from tilth.trainer.config import TrainConfig
from tilth.trainer.data import micro_batches, require_targets
from tilth.trainer.execution import autocast
from tilth.trainer.objectives import Objective
from tilth.trainer.parallel import World


@torch.no_grad()
def evaluate(model: Decoder, objective: Objective, tokens: TokenMixture, config: TrainConfig, world: World) -> float:
    """Mean loss (nats per target token) over the same `eval_batches` global batches of `tokens` at every call.

    A set that has less is read once, a mixture until one of its sources is. Every process must call it.
    Raises TrainError when there is no target or no finite loss.
    """
    numbered = list(enumerate(_plans(tokens, config)))[world.rank :: world.size]
    # What is asked of a sequence is the same at every evaluation: as of step 0.
    batches = micro_batches(
        tokens, numbered, config.micro_batch, world.device, lambda row, number: objective.arrange(row, 0, number)
    )
    model.eval()
    total, n_targets = 0.0, 0
    for batch in batches:
        with autocast(config, world.device):
            loss, count = objective.loss(model, batch)
        total += float(loss)
        n_targets += int(count)
    model.train()
    total, n_all = world.add_up([total, float(n_targets)])
    mean = total / require_targets(n_all, str(tokens.folder))
    if not math.isfinite(mean):
        raise TrainError(f"the validation loss is {mean}", where=str(tokens.folder))
    return mean


def _plans(tokens: TokenMixture, config: TrainConfig) -> list[SequencePlan]:
    order = tokens.order(config.seq_len, 1, config.seed)
    n_wanted = config.eval_batches * config.global_batch
    n_sequences = int(min(n_wanted, max(1, order.n_steps_within(1))))
    return [order.sequence(step, 0) for step in range(n_sequences)]
