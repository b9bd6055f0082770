"""What a run is given beside its tokens: weights to begin with, and a teacher or what that said."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tilth.models.decoder import Decoder
from tilth.models.weights import weights_digest
from tilth.tokenize.mixture import TokenMixture
from tilth.trainer.config import TrainConfig
from tilth.trainer.distill.stored_logits import StoredLogits
from tilth.trainer.distill.teacher import load_teacher


@dataclass(frozen=True)
class Given:
    """Folders: a saved model to start from, the one that an objective of distillation learns from, and what that says of the run.

    Where `teacher_logits` are stored (see distill/teacher_pass.py), the teacher is not asked.
    """

    initial: Path | None = None
    teacher: Path | None = None
    teacher_logits: Path | None = None

    def read_teacher(
        self, config: TrainConfig, vocab_size: int, tokens: TokenMixture, device: torch.device
    ) -> Decoder | StoredLogits | None:
        """The teacher of a run with `config`, or its words where they are stored. Raises what `load_teacher` and `check` do."""
        if self.teacher_logits is not None:
            stored = StoredLogits(self.teacher_logits)
            stored.check(config, tokens, vocab_size)
            return stored
        folder = self.second(config)
        if folder is None:
            return None
        return load_teacher(folder, vocab_size, tokens, device, is_reference=self.teacher is None)

    def second(self, config: TrainConfig) -> Path | None:
        """The model beside the one that is trained: a teacher, or of preferences what the run began with."""
        return self.teacher or (self.initial if config.objective == "preferences" else None)


NOTHING = Given()


def identity_of(teacher: Decoder | StoredLogits | None) -> dict[str, Any]:
    """What a resumed run must share of its teacher."""
    if isinstance(teacher, StoredLogits):
        return {"teacher_logits": teacher.identity()}
    return {} if teacher is None else {"teacher_digest": weights_digest(teacher.state_dict())}
