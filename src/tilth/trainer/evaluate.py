"""The loss on held-out tokens, shared among the processes."""

from __future__ import annotations

import math
from dataclasses import replace

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

_SEED = 0  # not the run's: runs are compared on the same sequences
_SPARE = -1  # the number of a sequence that is read for company only


@torch.no_grad()
def evaluate(model: Decoder, objective: Objective, tokens: TokenMixture, config: TrainConfig, world: World) -> dict[str, float]:
    """`validation_loss` (nats per target) and what else the objective scores, each a mean over the targets.

    Over the same `eval_batches` global batches of `tokens` at every call, whatever the seed of the run: a set that has less
    is read once, a mixture until one of its sources is, and all of several classes. Every process must call it.
    Raises TrainError when there is no target or no finite loss.
    """
    objective = objective.for_validation(tokens)
    numbered = _share(list(enumerate(_plans(objective, tokens, config))), world)

    def arrange(row: Row, plan: SequencePlan, number: int) -> Row:
        # What is asked of a sequence is the same at every evaluation: as of step 0.
        ids_T, targets_T, *others = objective.arrange(row, plan, 0, max(number, 0))
        return ids_T, np.full_like(targets_T, IGNORED) if number == _SPARE else targets_T, *others

    # as many at a time as in training, which is what fits
    size = config.micro_batch or max(1, config.global_batch // world.data_size)
    batches = micro_batches(tokens, numbered, size, world.device, arrange)
    model.eval()
    sums = dict.fromkeys(objective.scores, 0.0)
    n_targets = 0
    for batch in batches:
        with autocast(config, world.device):
            scores, count = objective.score(model, batch)
        sums = {name: total + float(scores[name]) for name, total in sums.items()}
        n_targets += int(count)
    model.train()
    n_all, *totals = world.add_up([float(n_targets), *sums.values()])
    n_all = require_targets(n_all, str(tokens.folder))
    means = {f"validation_{name}": total / n_all for name, total in zip(sums, totals, strict=True)}
    if not math.isfinite(means["validation_loss"]):
        raise TrainError(f"the validation loss is {means['validation_loss']}", where=str(tokens.folder))
    return means


def _share(numbered: list[tuple[int, SequencePlan]], world: World) -> list[tuple[int, SequencePlan]]:
    """This process's sequences: as many as any other's, for the parameters may lie in shards that all calls must gather."""
    share = numbered[world.data_rank :: world.data_size]
    n_each = math.ceil(len(numbered) / world.data_size)
    return share + [(_SPARE, numbered[0][1])] * (n_each - len(share))


def _plans(objective: Objective, tokens: TokenMixture, config: TrainConfig) -> list[SequencePlan]:
    n_wanted = config.eval_batches * config.global_batch
    order = tokens.order(config.seq_len, 1, _SEED, objective.reads_whole_documents)
    if objective.reads_whole_documents:
        # of each class its share, whatever the mixture's weights are: a mean over the documents as they are
        ends = np.cumsum([one.n_tokens for one in order.orders])
        places = np.arange(min(n_wanted, int(ends[-1]))) * int(ends[-1]) // min(n_wanted, int(ends[-1]))
        found = [(source, place - (int(ends[source - 1]) if source else 0)) for source, place in
                 zip(np.searchsorted(ends, places, side="right").tolist(), places.tolist(), strict=True)]  # fmt: skip
        return [replace(order.orders[source].sequence(number, 0), source=source) for source, number in found]
    n_sequences = int(min(n_wanted, max(1, order.n_steps_within(1))))
    return [order.sequence(step, 0) for step in range(n_sequences)]
