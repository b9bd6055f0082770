"""Stage 3 of MOHAWK (Bick et al. 2024) and all of MambaInLlama (Wang et al. 2024): predict what the teacher predicts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tilth.models.decoder import Decoder
from tilth.tokenize.order import SequencePlan
from tilth.trainer.config import TrainConfig
from tilth.trainer.data import Batch, Row
from tilth.trainer.distill.kl import Teacher, linear_distillation, of_hidden, of_stored
from tilth.trainer.distill.of_teacher import OfTeacher
from tilth.trainer.distill.stored_logits import StoredLogits


@dataclass(frozen=True)
class Distillation(OfTeacher):
    """The divergence of both predictions at every target, mixed with the targets' cross entropy; `teacher` is live or stored.

    Stored predictions are found by the place of a sequence in the run, a column (step, sequence) behind those of a row.
    """

    teacher: Decoder | StoredLogits
    is_reverse: bool = False
    temperature: float = 1.0
    ce_weight: float = 0.0

    @classmethod
    def of(cls, config: TrainConfig, teacher: Decoder | StoredLogits) -> Distillation:
        """As the settings of a run say."""
        return cls(teacher, config.kl == "reverse", config.temperature, config.ce_weight)

    def arrange(self, row: Row, plan: SequencePlan, step: int, sequence: int) -> Row:
        """The row as it is, with its place where the teacher's words for it are stored."""
        return row if isinstance(self.teacher, Decoder) else (*row, np.array([step, sequence]))

    def loss(self, model: Decoder, batch: Batch, each_BT: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The mixed loss of the targets, as (sum, count)."""
        targets_S, teacher = batch[1].flatten(), self._teacher(batch)
        each_S = None if each_BT is None else each_BT.view(-1)

        def of(hidden_BTD: Tensor, weight_VD: Tensor) -> tuple[Tensor, Tensor]:
            return linear_distillation(
                hidden_BTD.flatten(0, 1), weight_VD, targets_S, teacher, is_reverse=self.is_reverse,
                temperature=self.temperature, ce_weight=self.ce_weight, each_S=each_S,
            )  # fmt: skip

        return model.measure(batch[0], batch[2], of)

    def _teacher(self, batch: Batch) -> Teacher:
        """What the teacher says of all places, one sequence behind the other."""
        if isinstance(self.teacher, StoredLogits):
            log_p_BTK, ids_BTk = self.teacher.read(batch[3], batch[0].device)
            return of_stored(log_p_BTK.flatten(0, 1), None if ids_BTk is None else ids_BTk.flatten(0, 1), self.temperature)
        with torch.no_grad():
            hidden_BTE = self.teacher.hidden(batch[0], batch[2])
        return of_hidden(hidden_BTE.flatten(0, 1), self.teacher.head_weight, self.temperature)
