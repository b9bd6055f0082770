"""The loss on held-out tokens, shared among the processes."""

from __future__ import annotations

import math

import torch

from tilth.errors import TrainError
from tilth.models.decoder import Decoder
from tilth.tokenize.mixture import TokenMixture
from tilth.tokenize.order import SequencePlan
from tilth.trainer.config import TrainConfig
from tilth.trainer.data import count_targets, micro_batches
from tilth.trainer.parallel import World


@torch.no_grad()
def evaluate(model: Decoder, tokens: TokenMixture, config: TrainConfig, world: World) -> float:
    """Mean loss (nats per target token) over the same `eval_batches` global batches of `tokens` at every call.

    A set that has less is read once, a mixture until one of its sources is. Every process must call it.
    Raises TrainError when there is no target or no finite loss.
    """
    plans = _plans(tokens, config)
    n_targets = count_targets(plans, str(tokens.folder))
    model.eval()
    total = 0.0
    for batch in micro_batches(tokens, plans[world.rank :: world.size], config.micro_batch, world.device):
        loss, _ = model.loss(*batch)
        total += float(loss)
    model.train()
    mean = world.add_up([total])[0] / n_targets
    if not math.isfinite(mean):
        raise TrainError(f"the validation loss is {mean}", where=str(tokens.folder))
    return mean


def _plans(tokens: TokenMixture, config: TrainConfig) -> list[SequencePlan]:
    order = tokens.order(config.seq_len, 1, config.seed)
    n_wanted = config.eval_batches * config.global_batch
    n_sequences = int(min(n_wanted, max(1, order.n_steps_within(1))))
    return [order.sequence(step, 0) for step in range(n_sequences)]
