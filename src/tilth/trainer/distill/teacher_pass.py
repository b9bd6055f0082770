"""A teacher reads what a run will read, once: students that are trained on the same need it no more."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from tilth.artifacts.atomic import disk_errors
from tilth.errors import RecipeError, TrainError
from tilth.kernels.linear_cross_entropy.chunks import chunk_size
from tilth.models.decoder import Decoder
from tilth.models.weights import load_config, weights_digest
from tilth.tokenize.mixture import Source, TokenMixture
from tilth.tokenize.strands import mark_turned
from tilth.trainer.config import TrainConfig
from tilth.trainer.data import micro_batches, open_tokens
from tilth.trainer.distill.kl import Buckets, of_hidden, top_k
from tilth.trainer.distill.stored_logits import Header, has_step, sweep, write_header, written_step
from tilth.trainer.distill.teacher import load_teacher
from tilth.trainer.execution import autocast
from tilth.trainer.failures import memory_errors
from tilth.trainer.world import World, join_world, sole_use


def store_logits(
    teacher: Path,
    config: TrainConfig,
    sources: Path | Sequence[Source],
    folder: Path,
    k: int | None = None,
    on_step: Callable[[int], None] | None = None,
) -> Header:
    """`write_logits` in a world of its own. Raises TrainError, too, while another process does the same (beside `folder`)."""
    with join_world(config.device) as world, sole_use(folder.parent, world):
        return write_logits(teacher, config, sources, folder, world, k, on_step)


def write_logits(
    teacher: Path,
    config: TrainConfig,
    sources: Path | Sequence[Source],
    folder: Path,
    world: World,
    k: int | None = None,
    on_step: Callable[[int], None] | None = None,
) -> Header:
    """Write what `teacher` says of each sequence of a run with `config`: of all ids, or of the `k` likeliest and the rest.

    A call that was killed goes on after the last whole step. Every process of `world` calls this, nobody else for this folder,
    and takes its share of the steps. Raises RecipeError for a k that the vocabulary does not have, TrainError for logits that
    are not finite or when memory is out, StaleError for another tokenizer, StoreError when the disk is full.
    """
    model_config = load_config(teacher)
    if k is not None and not 1 <= k <= model_config.vocab_size:
        raise RecipeError(
            f"the teacher predicts {model_config.vocab_size} ids; its {k} likeliest cannot be stored",
            where="Distill(cached_logits=...)",
            fix=f'Give a number from 1 to {model_config.vocab_size}, or "all".',
        )
    with memory_errors(folder.parent, config, world.size, is_training=False):
        tokens = open_tokens(sources, model_config)
        model = load_teacher(teacher, model_config.vocab_size, tokens, world.device)
        header = Header.of(config, tokens, model_config.vocab_size, k)
        header = replace(header, teacher_digest=weights_digest(model.state_dict()))
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        world.from_first(lambda: sweep(folder))
        for step in range(config.steps):
            if step % world.size == world.rank and not has_step(folder, step):
                _store_step(model, config, tokens, folder, step, header, world)
            if on_step and world.is_first:
                on_step(step)
        world.add_up([1.0])  # all steps of all processes are there
        world.from_first(lambda: write_header(folder, header))
    return header


@torch.no_grad()
def _store_step(
    model: Decoder, config: TrainConfig, tokens: TokenMixture, folder: Path, step: int, header: Header, world: World
) -> None:
    plans = tokens.order(config.seq_len, config.global_batch, config.seed).sequences(step)
    plans = mark_turned(plans, config.reverse_complement, config.seed, step, 0)
    # as many sequences at a time as a process takes when it trains
    size = config.micro_batch or max(1, config.global_batch // world.size)
    batches = micro_batches(tokens, list(enumerate(plans)), size, world.device, lambda row, plan, number: row)
    with written_step(folder, step, header) as write, autocast(config, world.device):
        for ids_BT, _, segments_BT in batches:
            for said in _says(model, ids_BT, segments_BT, header):
                if not bool((said.log_p[:, : header.k] == said.log_p[:, : header.k]).all()):
                    fix = "Take another teacher."
                    raise TrainError(f"the teacher's logits of step {step} are not finite", where=str(folder), fix=fix)
                write(said)


def _says(model: Decoder, ids_BT: Tensor, segments_BT: Tensor, header: Header) -> Iterator[Buckets]:
    """What the model says of the tokens one after the other, of as many at a time as a loss holds the logits of."""
    hidden_SD = model.hidden(ids_BT, segments_BT).flatten(0, 1)
    teacher = of_hidden(hidden_SD, model.head_weight, header.temperature)
    for places_C in torch.arange(len(hidden_SD), device=hidden_SD.device).split(chunk_size(len(hidden_SD))):
        said = teacher(places_C)
        yield said if header.k is None else top_k(said, header.k)
