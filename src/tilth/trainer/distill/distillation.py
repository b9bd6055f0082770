"""Stage 3 of MOHAWK (Bick et al. 2024) and all of MambaInLlama (Wang et al. 2024): predict what the teacher predicts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tilth.models.decoder import Decoder
from tilth.models.losses import IGNORE_INDEX
from tilth.tokenize.order import SequencePlan
from tilth.trainer.config import TrainConfig
from tilth.trainer.data import Batch, Row
from tilth.trainer.distill.kl import Teacher, linear_distillation, of_hidden, of_stored
from tilth.trainer.distill.stored_logits import StoredLogits
from tilth.trainer.next_token import OfTeacher


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
        targets_BT, segments_BT = batch[1:3]
        kept_BT = targets_BT != IGNORE_INDEX
        teacher, targets_S = self._teacher(batch, kept_BT), targets_BT[kept_BT]
        each_S = None if each_BT is None else each_BT.new_empty(len(targets_S))

        def of(hidden_BTD: Tensor, weight_VD: Tensor) -> tuple[Tensor, Tensor]:
            return linear_distillation(
                hidden_BTD[kept_BT], weight_VD, targets_S, teacher, is_reverse=self.is_reverse,
                temperature=self.temperature, ce_weight=self.ce_weight, each_S=each_S,
            )  # fmt: skip

        found = model.measure(batch[0], segments_BT, of)
        if each_BT is not None and each_S is not None:
            each_BT.zero_()[kept_BT] = each_S
        return found

    def _teacher(self, batch: Batch, kept_BT: Tensor) -> Teacher:
        """What the teacher says of the kept places, in their order."""
        if isinstance(self.teacher, StoredLogits):
            log_p_BTK, ids_BTk = self.teacher.read(batch[3], batch[0].device)
            ids_Sk = None if ids_BTk is None else ids_BTk[kept_BT]
            return of_stored(log_p_BTK[kept_BT], ids_Sk, self.temperature)
        with torch.no_grad():
            hidden_BTE = self.teacher.hidden(batch[0], batch[2])
        return of_hidden(hidden_BTE[kept_BT], self.teacher.head_weight, self.temperature)
