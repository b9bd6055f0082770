"""The next token: what most runs learn, and by what all that learn otherwise are compared with them."""

from __future__ import annotations

from typing import ClassVar, Self

from torch import Tensor

from tilth.models.decoder import Decoder
from tilth.tokenize.mixture import TokenMixture
from tilth.tokenize.order import SequencePlan
from tilth.trainer.data import Batch, Row


class OfTokens:
    """What objectives share that read windows of tokens and have one loss."""

    reads_whole_documents: ClassVar[bool] = False
    scores: ClassVar[tuple[str, ...]] = ("loss",)

    def arrange(self, row: Row, plan: SequencePlan, step: int, sequence: int) -> Row:
        """The row as it is."""
        return row

    def loss(self, model: Decoder, batch: Batch, each_BT: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Cross entropy of the targets."""
        ids_BT, targets_BT, segments_BT = batch
        return model.loss(ids_BT, targets_BT, segments_BT, each_BT)

    def score(self, model: Decoder, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        """The loss alone."""
        loss, count = self.loss(model, batch)
        return {"loss": loss}, count


class NextToken(OfTokens):
    """Predict each token from those before it, within its document: what the token set's rows ask already."""

    def for_validation(self, tokens: TokenMixture) -> Self:
        """The same: it depends on no seed."""
        return self
