"""The loss on held-out tokens, shared among the processes."""

from __future__ import annotations

import math

import torch

from tilth.errors import TrainError
from tilth.models.decoder import Decoder
from tilth.tokenize.order import RunOrder, SequencePlan
from tilth.tokenize.shards import TokenSet
from tilth.trainer.config import TrainConfig
from tilth.trainer.data import count_targets, micro_batches
from tilth.trainer.parallel import World


@torch.no_grad()
def evaluate(model: Decoder, tokens: TokenSet, config: TrainConfig, world: World) -> float:
    """Mean loss (nats per target token) over the same `eval_batches` global batches of `tokens` at every call.

    A smaller set is read once. Every process must call it. Raises TrainError when there is no target or no finite loss.
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


def _plans(tokens: TokenSet, config: TrainConfig) -> list[SequencePlan]:
    n_wanted = config.eval_batches * config.global_batch
    n_sequences = min(n_wanted, max(1, tokens.n_tokens // config.seq_len))
    return RunOrder(tokens.lengths, config.seq_len, n_sequences, config.seed).sequences(0)
