"""The teacher of a run: read and checked, never trained; and which of the student's parameters are."""

from __future__ import annotations

from pathlib import Path

import torch

from tilth.errors import RecipeError, StaleError
from tilth.models.config import ModelConfig
from tilth.models.decoder import Decoder
from tilth.models.weights import load_config, load_model
from tilth.tokenize.mixture import Source, TokenMixture
from tilth.trainer.config import OF_TEACHER, TrainConfig
from tilth.trainer.data import open_tokens
from tilth.trainer.distill.distillation import OfStudent
from tilth.trainer.evaluate import evaluate
from tilth.trainer.world import World, pick_device


def load_teacher(folder: Path, vocab_size: int, tokens: TokenMixture, device: torch.device) -> Decoder:
    """The model of `folder` in fp32 on `device`, whole in every process, without gradients.

    Raises StaleError when it means something else by an id than `tokens`, RecipeError for other ids than `vocab_size`.
    """
    teacher = load_model(folder).float()  # autocast makes the products bf16 as it does the student's
    tokenizer = folder / "tokenizer.json"
    if tokenizer.exists() and tokenizer.read_bytes() != (tokens.folder / "tokenizer.json").read_bytes():
        raise StaleError(
            "the teacher was trained with another tokenizer than these tokens, so the same id would mean another token",
            where=str(tokenizer),
            fix="Tokenise the subset with the teacher's tokenizer.json, or take a teacher of this tokenizer.",
        )
    if teacher.config.vocab_size != vocab_size:
        raise RecipeError(
            f"the teacher predicts {teacher.config.vocab_size} ids, the student {vocab_size}",
            where=str(folder),
            fix="Give the student the teacher's vocab_size.",
        )
    return teacher.requires_grad_(False).eval().to(device)


def freeze(model: Decoder, config: TrainConfig, teacher: Path | None) -> None:
    """Leave gradients to what the run trains. Raises RecipeError when that would be nothing."""
    if config.objective not in OF_TEACHER or not config.trains_mixers_only:
        return
    if teacher is None:
        raise RecipeError("without a teacher no mixer differs from its", "TrainConfig.trained", "Give the teacher.")
    numbers = replaced_layers(model.config, load_config(teacher))
    model.requires_grad_(False)
    for number in numbers:
        model.blocks[number].mixer.requires_grad_(True)


def replaced_layers(student: ModelConfig, teacher: ModelConfig) -> list[int]:
    """The layers whose mixer is of another kind than the teacher's. Raises RecipeError for none, or another number of layers."""
    if len(student.pattern) != len(teacher.pattern):
        raise RecipeError(
            f"the student has {len(student.pattern)} layers, the teacher {len(teacher.pattern)}",
            where="ModelConfig.layers",
            fix="Give the student a letter for each layer of the teacher.",
        )
    numbers = [i for i, (own, other) in enumerate(zip(student.pattern, teacher.pattern, strict=True)) if own != other]
    if not numbers:
        raise RecipeError(
            f"all mixers are of the teacher's kind ({teacher.layers}): none is to be trained",
            where="TrainConfig.trained",
            fix="Give the student other layers, or train 'all' with objective='distillation'.",
        )
    return numbers


def validation_loss(folder: Path, config: TrainConfig, sources: Path | list[Source]) -> float:
    """The teacher's loss on what a run with `config` evaluates: nats per target, in this process alone."""
    tokens = open_tokens(sources, load_config(folder))
    world = World(0, 1, pick_device(config.device))
    teacher = load_teacher(folder, load_config(folder).vocab_size, tokens, world.device)
    return evaluate(teacher, OfStudent(), tokens, config, world)["validation_loss"]
