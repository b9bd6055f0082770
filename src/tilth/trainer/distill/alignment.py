"""Hidden-state alignment, the second stage of MOHAWK (Bick et al. 2024): layers that write what those of the teacher write."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tilth.models.decoder import Decoder
from tilth.tokenize.shards import IGNORED
from tilth.trainer.data import Batch
from tilth.trainer.distill.of_teacher import OfTeacher
from tilth.trainer.distill.student import check_layers


@dataclass(frozen=True)
class Alignment(OfTeacher):
    """Make the stream after each replaced layer that of the teacher, given the teacher's stream before it.

    The loss of a token is the Euclidean norm, not its square, of the difference of the two streams, as a sum over the layers: no
    layer's depends on another layer. The tokens are those that have a target. The teacher is on the model's device.
    """

    teacher: Decoder

    def loss(self, model: Decoder, batch: Batch, each_BT: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The sum over the targets, and their number. Raises RecipeError for a student or teacher that does not fit."""
        ids_BT, targets_BT, segments_BT = batch
        numbers = check_layers(self.teacher, model)
        with torch.no_grad():
            streams = [x_BTD.to(model.embedding.weight.dtype) for x_BTD in self.teacher.streams(ids_BT, segments_BT)]
        found = model.layer_outputs({number: streams[number] for number in numbers}, segments_BT)
        distances = [torch.linalg.vector_norm(x_BTD - streams[number + 1], dim=-1) for number, x_BTD in found.items()]
        is_asked_BT = targets_BT != IGNORED
        loss_BT = torch.stack(distances).sum(0) * is_asked_BT
        if each_BT is not None:
            each_BT.copy_(loss_BT.detach())
        return loss_BT.sum(), is_asked_BT.sum()
