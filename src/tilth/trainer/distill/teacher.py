"""The teacher of a run: read and checked, never trained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from tilth.errors import RecipeError, StaleError
from tilth.models.decoder import Decoder
from tilth.models.weights import load_config, load_model
from tilth.tokenize.bpe import Tokenizer
from tilth.tokenize.mixture import Source, TokenMixture
from tilth.trainer.config import OF_TEACHER, TrainConfig
from tilth.trainer.data import open_tokens
from tilth.trainer.evaluate import evaluate
from tilth.trainer.next_token import NextToken
from tilth.trainer.objectives import make_objective
from tilth.trainer.world import World, pick_device


def load_teacher(
    folder: Path, vocab_size: int, tokens: TokenMixture, device: torch.device, *, is_reference: bool = False
) -> Decoder:
    """The model of `folder` in fp32 on `device`, whole in every process, without gradients.

    Raises StaleError when it would misread `tokens` (see Tokenizer.difference), RecipeError for other ids than `vocab_size`. A
    reference is what the run began with, so it may end or begin its texts otherwise, as that may.
    """
    teacher = load_model(folder).float()  # autocast makes the products bf16 as it does the student's
    if (folder / "tokenizer.json").exists():
        own, new = Tokenizer.open(folder), tokens.sets[0].tokenizer()
        difference = own.difference(new)
        if difference and (own.digest != new.digest or not is_reference):
            raise StaleError(
                f"the teacher was trained with another tokenizer than these tokens: {difference}",
                where=str(folder / "tokenizer.json"),
                fix="Tokenise the subset with the teacher's tokenizer, or take a teacher of this one.",
            )
    if teacher.config.vocab_size != vocab_size:
        raise RecipeError(
            f"the teacher predicts {teacher.config.vocab_size} ids, the student {vocab_size}",
            where=str(folder),
            fix="Give the student the teacher's vocab_size.",
        )
    return teacher.requires_grad_(False).eval().to(device)


def validation_loss(folder: Path, config: TrainConfig, sources: Path | Sequence[Source]) -> float:
    """The teacher's loss on what a run with `config` evaluates: nats per target, in this process alone."""
    known = load_config(folder)
    tokens = open_tokens(sources, known)
    objective = NextToken() if config.objective in OF_TEACHER else make_objective(config, known, tokens)
    world = World(0, 1, pick_device(config.device))
    teacher = load_teacher(folder, known.vocab_size, tokens, world.device)
    return evaluate(teacher, objective, tokens, config, world)["validation_loss"]
