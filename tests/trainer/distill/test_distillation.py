"""The loss of a stage's batch is that of its targets alone, whether the teacher is asked or its words are read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tilth.models.decoder import Decoder
from tilth.trainer.distill.distillation import Distillation
from tilth.trainer.distill.kl import Buckets, top_k
from tilth.trainer.distill.stored_logits import StoredLogits


class Words(StoredLogits):
    """What was stored, in memory."""

    def __init__(self, said: Buckets) -> None:
        self.said = said

    def read(self, places_B2: Tensor, device: torch.device) -> tuple[Tensor, Tensor | None]:
        return self.said.log_p, self.said.ids


@pytest.mark.parametrize("kind", ["live", "all", "some"])
def test_only_targets_count_and_each_has_its_own_loss(kind: str, make_model: Callable[..., Decoder]) -> None:
    student, live = make_model("DA"), make_model("AA", scale=4.0)
    ids_BT = torch.randint(0, student.config.vocab_size, (3, 12), generator=torch.Generator().manual_seed(0))
    segments_BT = torch.zeros(3, 12, dtype=torch.int32)
    with torch.no_grad():
        log_p_BTV = torch.log_softmax(live(ids_BT, segments_BT), -1)
        log_q_BTV = torch.log_softmax(student(ids_BT, segments_BT), -1)
    log_p_S, ids_S = top_k(Buckets(log_p_BTV.flatten(0, 1)), live.config.vocab_size)
    assert ids_S is not None
    some = Buckets(log_p_S.view(3, 12, -1), ids_S.view(3, 12, -1))
    teacher: Any = {"live": live, "all": Words(Buckets(log_p_BTV)), "some": Words(some)}[kind]
    targets_BT = torch.where(ids_BT % 3 == 0, -100, ids_BT)
    each_BT = torch.full((3, 12), 9.0)
    batch = (ids_BT, targets_BT, segments_BT, torch.zeros(3, 2, dtype=torch.long))
    loss, count = Distillation(teacher).loss(student, batch, each_BT)
    wanted_BT = (log_p_BTV.exp() * (log_p_BTV - log_q_BTV)).sum(-1) * (targets_BT != -100)
    torch.testing.assert_close(each_BT, wanted_BT, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(loss.detach(), wanted_BT.sum(), rtol=1e-5, atol=1e-5)
    assert int(count) == int((ids_BT % 3 != 0).sum())
