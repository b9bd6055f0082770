"""The loss of each document in each step: what the model really lost there, once, whatever happened to the run."""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from tilth.contracts import DOCUMENT_LOSSES
from tilth.models.config import ModelConfig
from tilth.models.decoder import Decoder
from tilth.tokenize.mixture import TokenMixture
from tilth.tokenize.order import Piece, SequencePlan
from tilth.trainer.config import TrainConfig
from tilth.trainer.document_losses import TABLE, DocumentLosses, write_table
from tilth.trainer.metrics import read_metrics
from tilth.trainer.world import World

RunTiny = Callable[..., subprocess.Popen[str]]
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
Row = dict[str, Any]


def finish(process: subprocess.Popen[str], code: int = 0) -> None:
    _, err = process.communicate(timeout=120)
    assert process.returncode == code, err


def rows_of(work_dir: Path) -> list[Row]:
    table = pq.read_table(work_dir / TABLE)
    assert table.schema.metadata[b"tilth.contract"] == b"document_losses/1"
    return table.to_pylist()


@pytest.fixture(scope="module")
def train(config: TrainConfig) -> dict[str, Any]:
    return {**config.to_dict(), "document_losses": True}


@pytest.fixture(scope="module")
def whole(setup: dict[str, Any], train: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tilth.trainer.loop import train as run

    work_dir = tmp_path_factory.mktemp("losses") / "run"
    run(
        ModelConfig.from_dict(setup["model"]), TrainConfig.from_dict(train), Path(setup["tokens"]), Path(setup["validation"]),
        work_dir,
    )  # fmt: skip
    return work_dir


def test_the_rows_of_a_step_add_up_to_its_loss(whole: Path) -> None:
    lines, rows = read_metrics(whole), rows_of(whole)
    assert [(row["step"], row["sequence"], row["piece"]) for row in rows] == sorted(
        {(row["step"], row["sequence"], row["piece"]) for row in rows}
    )
    n_targets, loss_sum = Counter[int](), Counter[int]()
    for row in rows:
        n_targets[row["step"]] += row["n_targets"]
        loss_sum[row["step"]] += row["loss_sum"]
    for line in lines:
        assert n_targets[line["step"]] == line["n_tokens"]
        assert loss_sum[line["step"]] / line["n_tokens"] == pytest.approx(line["loss"], rel=1e-6)


def test_a_row_is_what_the_model_lost_on_that_document(whole: Path, setup: dict[str, Any], config: TrainConfig) -> None:
    """Before the first update the model is known: each document is run through it alone, behind the separator before it."""
    torch.manual_seed(config.seed)
    model = Decoder(ModelConfig.from_dict(setup["model"]))
    tokens = TokenMixture.open(Path(setup["tokens"]))
    plans = tokens.order(config.seq_len, config.global_batch, config.seed).sequences(0)
    rows = {(row["sequence"], row["piece"]): row for row in rows_of(whole) if row["step"] == 0}
    assert set(rows) == {(i, j) for i, plan in enumerate(plans) for j, piece in enumerate(plan) if j or piece.length > 1}
    for (sequence, place), row in rows.items():
        piece = plans[sequence].pieces[place]
        own = tokens.sets[0].document(piece.document)[piece.start : piece.start + piece.length].astype(np.int64)
        ids = torch.from_numpy(np.append(tokens.sets[0].separator_id, own) if place else own)
        with torch.no_grad():
            log_p = torch.log_softmax(model(ids[None, :-1])[0], -1)
        assert (row["document"], row["start"], row["n_targets"]) == (piece.document, piece.start, len(ids) - 1)
        assert row["loss_sum"] == pytest.approx(-float(log_p.gather(1, ids[1:, None]).sum()), rel=1e-5)
        assert row["subset"] == "train"


def test_to_look_changes_no_bit(whole: Path, uninterrupted: Path) -> None:
    assert (whole / "model.safetensors").read_bytes() == (uninterrupted / "model.safetensors").read_bytes()


@pytest.mark.slow
def test_a_killed_run_has_each_row_once(run_tiny: RunTiny, whole: Path, train: dict[str, Any], tmp_path: Path) -> None:
    """Killed between two checkpoints, with rows of steps that are taken again, and one row torn."""
    work_dir = tmp_path / "run"
    for where in ("step:9", "step:10"):
        finish(run_tiny(work_dir, train=train, act="die", where=where), -9)
        (file,) = (work_dir / "document_losses").glob("*.rows")
        with file.open("ab") as torn:
            torn.write(b"\1" * 30)
    finish(run_tiny(work_dir, train=train))
    assert (work_dir / TABLE).read_bytes() == (whole / TABLE).read_bytes()


@pytest.mark.slow
def test_two_processes_write_what_one_does_also_after_the_world_changed(
    run_tiny: RunTiny, whole: Path, train: dict[str, Any], tmp_path: Path
) -> None:
    """Steps 0 to 4 on two processes, which die in step 7, the others on one."""
    work_dir = tmp_path / "run"
    process = run_tiny(work_dir, launcher=TORCHRUN, train=train, act="die", where="step:8", rank=1)
    process.communicate(timeout=120)
    assert process.returncode != 0
    assert len(list((work_dir / "document_losses").glob("*.rows"))) == 2
    finish(run_tiny(work_dir, train=train))
    found, wanted = rows_of(work_dir), rows_of(whole)
    for row, other in zip(found, wanted, strict=True):
        assert row.pop("loss_sum") == pytest.approx(other.pop("loss_sum"), rel=1e-4)
        assert row == other


def _world(rank: int, size: int) -> World:
    return World(rank, size, torch.device("cpu"))


def _step(losses: DocumentLosses, step: int, first: int, lengths: list[list[int]]) -> None:
    """Write a step of sequences whose pieces are documents 0, 1, ... of these lengths, each token losing 0.5."""
    plans = [
        SequencePlan(tuple(Piece(i, 0, n) for i, n in enumerate(own)), (0,) * len(own), number=first + at)
        for at, own in enumerate(lengths)
    ]
    losses.begin(plans)
    for own in lengths:  # micro-batches of one
        segments = torch.cat([torch.full((n,), i, dtype=torch.int32) for i, n in enumerate(own)])[None, :-1]
        targets = torch.cat([torch.tensor([7] * (n - 1) + [-100]) for n in own])[None, :-1]
        losses.add((targets, targets, segments), torch.where(targets >= 0, 0.5, 0.0))
    losses.write(step)


def test_shares_of_processes_are_merged_in_order(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for rank in (1, 0):
        losses = DocumentLosses(tmp_path, 0, _world(rank, 2))
        for step in range(3):
            _step(losses, step, rank * 2, [[4, 1, 4], [2, 7]])
            losses.sync()
    write_table(tmp_path, ["web"], 3 * 2 * (3 + 3 + 1 + 6))
    assert not caplog.records
    rows = rows_of(tmp_path)
    places = [(step, seq, piece) for step in range(3) for seq in range(4) for piece in ((0, 2), (0, 1))[seq % 2]]
    assert [(row["step"], row["sequence"], row["piece"]) for row in rows] == places
    assert all(row["loss_sum"] == row["n_targets"] / 2 for row in rows)
    monkeypatch.setattr("tilth.trainer.document_losses._ROWS_AT_ONCE", 1)
    write_table(tmp_path, ["web"], 3 * 2 * (3 + 3 + 1 + 6))
    assert pq.ParquetFile(tmp_path / TABLE).num_row_groups == 3
    assert rows_of(tmp_path) == rows
    # One process goes on where two had come to step 3, from a checkpoint before step 1.
    losses = DocumentLosses(tmp_path, 1, _world(0, 1))
    for step in (1, 2):
        _step(losses, step, 0, [[4, 1, 4], [2, 7]] * 2)
    write_table(tmp_path, ["web"], 3 * 2 * (3 + 3 + 1 + 6))
    assert rows_of(tmp_path) == rows
    # Rows that are lost are told.
    DocumentLosses(tmp_path, 2, _world(0, 1))
    write_table(tmp_path, ["web"], 3 * 2 * (3 + 3 + 1 + 6))
    assert "52 of 78 targets" in caplog.text


def test_a_run_without_any_row_has_an_empty_table(tmp_path: Path) -> None:
    DocumentLosses(tmp_path, 0, _world(0, 1))
    write_table(tmp_path, ["web"], 0)
    assert rows_of(tmp_path) == []
    assert pq.read_schema(tmp_path / TABLE).names == DOCUMENT_LOSSES.schema.names
