"""Matrix orientation, the first stage of MOHAWK (Bick et al. 2024): mixers that mix the tokens as those of the teacher do."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tilth.errors import RecipeError
from tilth.models.config import ModelConfig
from tilth.models.decoder import Decoder
from tilth.models.layout import lay_out
from tilth.tokenize.order import SequencePlan
from tilth.tokenize.shards import IGNORED
from tilth.trainer.data import Batch, Row
from tilth.trainer.distill.of_teacher import OfTeacher
from tilth.trainer.distill.student import check_layers


@dataclass(frozen=True)
class Orientation(OfTeacher):
    """Make the matrix of each replaced mixer that of the teacher's mixer, both fed with what the teacher's reads.

    The loss of a sequence is the Frobenius norm of the difference of the two matrices (T, T), 0 where one document would read
    another, as a mean over the heads and a sum over the layers. Only the mixers' own parameters have gradients. Memory grows
    with the T^2 of one layer, and with micro_batch, not with depth. The teacher is on the model's device.
    """

    teacher: Decoder

    def arrange(self, row: Row, plan: SequencePlan, step: int, sequence: int) -> Row:
        """The row as it is, with one target: a sequence has one loss, and counts once."""
        ids_T, _, segments_T = row
        targets_T = np.full(len(ids_T), IGNORED, np.int64)
        targets_T[0] = ids_T[0]
        return ids_T, targets_T, segments_T

    def loss(self, model: Decoder, batch: Batch, each_BT: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The sum over the sequences that have a target, and their number. Raises RecipeError for layers that do not fit."""
        ids_BT, targets_BT, segments_BT = batch
        numbers = check_layers(self.teacher, model)
        check_heads(self.teacher.config, model.config, numbers)
        read = self._read(numbers, ids_BT, segments_BT)
        layout = lay_out(self.teacher.config, ids_BT, segments_BT, 0)

        def distance(number: int, found_BHTT: Tensor) -> Tensor:
            with torch.no_grad():
                wanted_BHTT = self.teacher.get_submodule(f"blocks.{number}.mixer").matrices(read[number], layout)
            return torch.linalg.vector_norm(found_BHTT - wanted_BHTT, dim=(-2, -1)).mean(1)

        inputs = {number: x_BTD.to(model.embedding.weight.dtype) for number, x_BTD in read.items()}
        by_layer = model.layer_matrices(inputs, segments_BT, distance)
        is_asked_B = (targets_BT != IGNORED).any(1)
        loss_B = torch.stack(list(by_layer.values())).sum(0) * is_asked_B
        if each_BT is not None:
            each_BT.zero_()[:, 0] = loss_B.detach()
        return loss_B.sum(), is_asked_B.sum()

    @torch.no_grad()
    def _read(self, numbers: tuple[int, ...], ids_BT: Tensor, segments_BT: Tensor) -> dict[int, Tensor]:
        """What the teacher's mixers of these layers read, (B, T, D) each."""
        streams = self.teacher.streams(ids_BT, segments_BT)
        return {number: self.teacher.get_submodule(f"blocks.{number}.mixer_norm")(streams[number]) for number in numbers}


def check_heads(teacher: ModelConfig, student: ModelConfig, numbers: tuple[int, ...]) -> None:
    """Raise RecipeError for layers with other numbers of heads than the teacher's: their matrices cannot be compared."""
    for number in numbers:
        old, new = (config.n_heads if config.pattern[number] == "A" else config.n_ssm_heads for config in (teacher, student))
        if old != new:
            raise RecipeError(
                f"layer {number} of the student has {new} heads, that of its teacher {old}, so its matrices are not comparable",
                where="TrainConfig.objective",
                fix="Leave the student's shapes to student_config, or leave out the stage 'orientation'.",
            )
