"""A teacher's pass holds no more than training does: its logits of a chunk, the sequences of a process's share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tilth.errors import TrainError
from tilth.kernels.linear_cross_entropy.chunks import chunk_size
from tilth.models.decoder import Decoder
from tilth.models.weights import load_model, save_model
from tilth.trainer.config import TrainConfig
from tilth.trainer.data import open_tokens
from tilth.trainer.distill import teacher_pass
from tilth.trainer.distill.stored_logits import StoredLogits, step_file
from tilth.trainer.distill.teacher_pass import store_logits
from tilth.trainer.world import World

LARGE = TrainConfig(steps=1, seq_len=128, global_batch=8, device="cpu")  # 4 chunks a step


@pytest.mark.parametrize("k", [None, 8])
def test_no_more_logits_are_made_at_a_time_than_of_a_chunk(
    k: int | None, teacher: Path, tokens: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    real = torch.log_softmax

    def counted(logits: Tensor, *arguments: Any) -> Tensor:
        made.append(logits.numel() // 290)
        return real(logits, *arguments)

    monkeypatch.setattr(torch, "log_softmax", counted)
    monkeypatch.setattr(Decoder, "predict", lambda *arguments: pytest.fail("the logits are made whole"))
    store_logits(teacher, LARGE, tokens, tmp_path / "logits", k)
    assert sum(made) == 128 * 8
    assert max(made) <= chunk_size(128 * 8) == 256


@pytest.mark.parametrize("k", [None, 8])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_what_is_stored_is_what_the_whole_logits_say(
    k: int | None, temperature: float, teacher: Path, tokens: Path, tmp_path: Path
) -> None:
    config = TrainConfig.from_dict({**LARGE.to_dict(), "objective": "distillation", "temperature": temperature})
    store_logits(teacher, config, tokens, tmp_path / "logits", k)
    read = open_tokens(tokens, load_model(teacher).config)
    rows = [read.sequence(plan) for plan in read.order(128, 8, 0).sequences(0)]
    ids_BT, segments_BT = (torch.from_numpy(np.stack([row[part] for row in rows])) for part in (0, 2))
    with torch.no_grad():
        logits_BTV = load_model(teacher)(ids_BT, segments_BT)
    wanted = torch.log_softmax(logits_BTV / (1.0 if k is None else temperature), -1)
    places_B2 = torch.tensor([[0, number] for number in range(8)])
    log_p, ids = StoredLogits(tmp_path / "logits").read(places_B2, torch.device("cpu"))
    if ids is None:
        torch.testing.assert_close(log_p.float(), wanted, rtol=1e-3, atol=1e-3)
    else:
        torch.testing.assert_close(log_p[..., :8].float(), wanted.topk(8).values, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(log_p[..., :8].float(), wanted.gather(-1, ids), rtol=1e-3, atol=1e-3)
        rest = wanted.scatter(-1, ids, -torch.inf).logsumexp(-1)
        torch.testing.assert_close(log_p[..., 8].float(), rest, rtol=1e-3, atol=1e-3)
    # the header of the file is numpy's own
    path = step_file(tmp_path / "logits", 0, "log_p")
    np.save(tmp_path / "again.npy", np.load(path))
    assert path.read_bytes() == (tmp_path / "again.npy").read_bytes()


def test_without_micro_batch_a_process_reads_as_many_sequences_at_a_time_as_it_trains_on(
    teacher: Path, tokens: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    real = Decoder.hidden

    def counted(self: Decoder, ids_BT: Tensor, *arguments: Any) -> Tensor:
        read.append(len(ids_BT))
        return real(self, ids_BT, *arguments)

    header = store_logits(teacher, LARGE, tokens, tmp_path / "logits", 8)
    model = load_model(teacher)
    monkeypatch.setattr(Decoder, "hidden", counted)
    mixture = open_tokens(tokens, model.config)
    (tmp_path / "logits" / "step-00000000.log_p.npy").unlink()
    teacher_pass._store_step(model, LARGE, mixture, tmp_path / "logits", 0, header, World(1, 4, torch.device("cpu")))
    assert read == [2] * 4


def test_out_of_memory_says_what_the_pass_can_lower(
    teacher: Path, tokens: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*arguments: Any) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(Decoder, "hidden", fails)
    with pytest.raises(TrainError, match="out of memory") as caught:
        store_logits(teacher, LARGE, tokens, tmp_path / "logits", 8)
    message = str(caught.value)
    for way in (
        "steps that the teacher has read are kept",
        "micro_batch=4 (it was 8",
        "precision='bfloat16'",
        "lower seq_len=128",
    ):
        assert way in message
    assert "recompute" not in message
    assert "checkpoint" not in message


def test_half_a_step_of_a_pass_that_was_killed_is_swept(teacher: Path, tokens: Path, tmp_path: Path) -> None:
    store_logits(teacher, LARGE, tokens, tmp_path / "whole", 4)
    (tmp_path / "killed").mkdir()
    (tmp_path / "killed" / ".step-00000000.log_p.npy.0123").write_bytes(b"half a step")
    store_logits(teacher, LARGE, tokens, tmp_path / "killed", 4)
    whole, killed = ({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("whole", "killed"))
    assert whole == killed


def test_a_teacher_whose_logits_are_not_finite_leaves_no_step(teacher: Path, tokens: Path, tmp_path: Path) -> None:
    broken = load_model(teacher)
    with torch.no_grad():
        broken.norm.weight.fill_(torch.nan)
    save_model(tmp_path / "broken", broken)
    with pytest.raises(TrainError, match="logits of step 0 are not finite"):
        store_logits(tmp_path / "broken", LARGE, tokens, tmp_path / "logits", 4)
    assert not list((tmp_path / "logits").iterdir())
