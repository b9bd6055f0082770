"""The loss on held-out tokens, shared among the processes."""

from __future__ import annotations

import math

import numpy as np
import torch

from tilth.errors import TrainError
from tilth.models.decoder import Decoder
from tilth.tokenize.mixture import TokenMixture
from tilth.tokenize.order import SequencePlan
from tilth.tokenize.shards import IGNORED
from tilth.trainer.config import TrainConfig
from tilth.trainer.data import Row, micro_batches, require_targets
from tilth.trainer.execution import autocast
from tilth.trainer.objectives import Objective
from tilth.trainer.world import World

_SPARE = -1  # the number of a sequence that is read for company only


@torch.no_grad()
def evaluate(model: Decoder, objective: Objective, tokens: TokenMixture, config: TrainConfig, world: World) -> float:
    """Mean loss (nats per target token) over the same `eval_batches` global batches of `tokens` at every call.

    A set that has less is read once, a mixture until one of its sources is. Every process must call it.
    Raises TrainError when there is no target or no finite loss.
    """
    numbered = _share(list(enumerate(_plans(tokens, config))), world)

    def arrange(row: Row, number: int) -> Row:
        if number == _SPARE:
            ids_T, targets_T, segments_T = row
            return ids_T, np.full_like(targets_T, IGNORED), segments_T
        # What is asked of a sequence is the same at every evaluation: as of step 0.
        return objective.arrange(row, 0, number)

    batches = micro_batches(tokens, numbered, config.micro_batch, world.device, arrange)
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


def _share(numbered: list[tuple[int, SequencePlan]], world: World) -> list[tuple[int, SequencePlan]]:
    """This process's sequences: as many as any other's, for the parameters may lie in shards that all calls must gather."""
    share = numbered[world.data_rank :: world.data_size]
    n_each = math.ceil(len(numbered) / world.data_size)
    return share + [(_SPARE, numbered[0][1])] * (n_each - len(share))


def _plans(tokens: TokenMixture, config: TrainConfig) -> list[SequencePlan]:
    order = tokens.order(config.seq_len, 1, config.seed)
    n_wanted = config.eval_batches * config.global_batch
    n_sequences = int(min(n_wanted, max(1, order.n_steps_within(1))))
    return [order.sequence(step, 0) for step in range(n_sequences)]
