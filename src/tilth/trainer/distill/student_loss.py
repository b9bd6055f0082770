"""What a student alone is worth, whatever it is trained by: one measure for all stages, and for the teacher."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from tilth.models.decoder import Decoder
from tilth.tokenize.mixture import TokenMixture
from tilth.tokenize.order import SequencePlan
from tilth.trainer.data import Batch, Row


class StudentLoss:
    """Cross entropy of the next token in nats, whatever the student is trained by."""

    reads_whole_documents: ClassVar[bool] = False
    scores: ClassVar[tuple[str, ...]] = ("loss",)

    def arrange(self, row: Row, plan: SequencePlan, step: int, sequence: int) -> Row:
        """The row as it is."""
        return row

    def loss(self, model: Decoder, batch: Batch, each_BT: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Cross entropy of the targets."""
        ids_BT, targets_BT, segments_BT = batch[:3]
        return model.loss(ids_BT, targets_BT, segments_BT, each_BT)

    def for_validation(self, tokens: TokenMixture) -> StudentLoss:
        """The same."""
        return self

    def score(self, model: Decoder, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        """The loss alone."""
        loss, count = self.loss(model, batch)
        return {"loss": loss}, count
