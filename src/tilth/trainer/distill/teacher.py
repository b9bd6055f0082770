"""The teacher of a run: read and checked, never trained; and which of the student's parameters are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tilth.errors import RecipeError, StaleError
from tilth.models.decoder import Decoder
from tilth.models.weights import load_config, load_model, weights_digest
from tilth.tokenize.bpe import Tokenizer
from tilth.tokenize.mixture import Source, TokenMixture
from tilth.trainer.config import OF_TEACHER, TrainConfig
from tilth.trainer.data import open_tokens
from tilth.trainer.distill.stored_logits import StoredLogits
from tilth.trainer.distill.student import replaced_layers
from tilth.trainer.evaluate import evaluate
from tilth.trainer.next_token import NextToken
from tilth.trainer.objectives import make_objective
from tilth.trainer.world import World, pick_device


@dataclass(frozen=True)
class Given:
    """The folders that a run is given beside its tokens: weights to begin with, a teacher, and what that teacher said."""

    initial: Path | None = None
    teacher: Path | None = None
    teacher_logits: Path | None = None

    def read_teacher(
        self, config: TrainConfig, vocab_size: int, tokens: TokenMixture, device: torch.device
    ) -> Decoder | StoredLogits | None:
        """The teacher of a run with `config`, or its words where they are stored. Raises what `load_teacher` and `check` do.

        Preferences are learnt by comparison with what a run began with, unless it has a teacher.
        """
        if self.teacher_logits is not None:
            stored = StoredLogits(self.teacher_logits)
            stored.check(config, tokens, vocab_size)
            return stored
        folder = self.teacher or (self.initial if config.objective == "preferences" else None)
        return None if folder is None else load_teacher(folder, vocab_size, tokens, device)


def identity_of(teacher: Decoder | StoredLogits | None) -> dict[str, Any]:
    """What a resumed run must share of its teacher."""
    if isinstance(teacher, StoredLogits):
        return {"teacher_logits": teacher.identity()}
    return {} if teacher is None else {"teacher_digest": weights_digest(teacher.state_dict())}


def load_teacher(folder: Path, vocab_size: int, tokens: TokenMixture, device: torch.device) -> Decoder:
    """The model of `folder` in fp32 on `device`, whole in every process, without gradients.

    Raises StaleError when it would misread `tokens` (see Tokenizer.difference), RecipeError for other ids than `vocab_size`.
    """
    teacher = load_model(folder).float()  # autocast makes the products bf16 as it does the student's
    if (folder / "tokenizer.json").exists():
        difference = Tokenizer.open(folder).difference(tokens.sets[0].tokenizer())
        if difference:
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


def freeze(model: Decoder, config: TrainConfig, teacher: Path | None) -> None:
    """Leave gradients to what the run trains. Raises RecipeError when that would be nothing."""
    if config.objective not in OF_TEACHER or not config.trains_mixers_only:
        return
    if teacher is None:
        raise RecipeError("without a teacher no mixer differs from its", "TrainConfig.trained", "Give the teacher.")
    known = load_config(teacher)
    if len(known.pattern) != len(model.config.pattern):
        fix = "Give the student a letter for each layer of the teacher."
        raise RecipeError(
            f"the student has the layers {model.config.layers}, the teacher {known.layers}", "ModelConfig.layers", fix
        )
    numbers = replaced_layers(known, model.config)
    if not numbers:
        raise RecipeError(
            f"all mixers are of the teacher's kind ({known.layers}): none is to be trained",
            where="TrainConfig.trained",
            fix="Give the student other layers, or train 'all' with objective='distillation'.",
        )
    model.requires_grad_(False)
    for number in numbers:
        model.get_submodule(f"blocks.{number}.mixer").requires_grad_(True)


def validation_loss(folder: Path, config: TrainConfig, sources: Path | Sequence[Source]) -> float:
    """The teacher's loss on what a run with `config` evaluates: nats per target, in this process alone."""
    known = load_config(folder)
    tokens = open_tokens(sources, known)
    objective = NextToken() if config.objective in OF_TEACHER else make_objective(config, known, tokens)
    world = World(0, 1, pick_device(config.device))
    teacher = load_teacher(folder, known.vocab_size, tokens, world.device)
    return evaluate(teacher, objective, tokens, config, world)["validation_loss"]
