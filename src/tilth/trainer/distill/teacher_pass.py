"""A teacher reads what a run will read, once: students that are trained on the same need it no more."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from tilth.artifacts.atomic import disk_errors
from tilth.errors import RecipeError, TrainError
from tilth.models.decoder import Decoder
from tilth.models.weights import load_config, weights_digest
from tilth.tokenize.mixture import Source, TokenMixture
from tilth.tokenize.strands import mark_turned
from tilth.trainer.config import TrainConfig
from tilth.trainer.data import micro_batches, open_tokens
from tilth.trainer.distill.kl import top_k
from tilth.trainer.distill.stored_logits import Header, has_step, write_header, write_step
from tilth.trainer.distill.teacher import load_teacher
from tilth.trainer.execution import autocast
from tilth.trainer.loop import sole_use
from tilth.trainer.world import World, join_world


def store_logits(
    teacher: Path,
    config: TrainConfig,
    sources: Path | Sequence[Source],
    folder: Path,
    k: int | None = None,
    on_step: Callable[[int], None] | None = None,
) -> Header:
    """Write what `teacher` says of each sequence of a run with `config`: of all ids, or of the `k` likeliest and the rest.

    A call that was killed goes on after the last whole step. Under `torchrun` every process calls this and takes its share of
    the steps. Raises RecipeError for a k that the vocabulary does not have, TrainError for logits that are not finite, or
    while another process does the same (a lock beside `folder`), StaleError for another tokenizer, StoreError when the disk is
    full.
    """
    model_config = load_config(teacher)
    if k is not None and not 1 <= k <= model_config.vocab_size:
        raise RecipeError(
            f"the teacher predicts {model_config.vocab_size} ids; its {k} likeliest cannot be stored",
            where="Distill(cached_logits=...)",
            fix=f'Give a number from 1 to {model_config.vocab_size}, or "all".',
        )
    with join_world(config.device) as world, sole_use(folder.parent, world):
        tokens = open_tokens(sources, model_config)
        model = load_teacher(teacher, model_config.vocab_size, tokens, world.device)
        header = Header.of(config, tokens, model_config.vocab_size, k)
        header = replace(header, teacher_digest=weights_digest(model.state_dict()))
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
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
    log_p, ids = [], []
    for batch in micro_batches(tokens, list(enumerate(plans)), config.micro_batch, world.device, lambda row, plan, number: row):
        with autocast(config, world.device):
            logits_BTV = model(batch[0], batch[2]).float() / header.temperature
        shape = logits_BTV.shape[:2]
        if header.k is None:
            found_SK = torch.log_softmax(logits_BTV, -1).flatten(0, 1)
        else:
            found_SK, ids_Sk = top_k(logits_BTV.flatten(0, 1), header.k)
            assert ids_Sk is not None
            ids.append(ids_Sk.view(*shape, -1).cpu().numpy())
        if not bool((found_SK[:, : header.k] == found_SK[:, : header.k]).all()):
            raise TrainError(
                f"the teacher's logits of step {step} are not finite", where=str(folder), fix="Take another teacher."
            )
        log_p.append(found_SK.view(*shape, -1).half().cpu().numpy())
    write_step(folder, step, np.concatenate(log_p), np.concatenate(ids) if ids else None, header.vocab_size)
