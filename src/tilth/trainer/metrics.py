"""The record of a run: one line of metrics.jsonl a step, the same values in TensorBoard, cut back when a run resumes."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

from tilth.artifacts.atomic import disk_errors, write_atomically
from tilth.trainer.online import OnlineCurves

log = logging.getLogger(__name__)
METRICS_FILE = "metrics.jsonl"
_CURVES = ("loss", "validation_loss", "validation_accuracy", "lr", "grad_norm", "tokens_per_second", "mfu")


class Metrics:
    """An open metrics.jsonl with its TensorBoard twin; use as a context.

    A line holds step, loss (nats per target token, before the step's update), lr, grad_norm (before clipping),
    n_tokens (targets), seconds, tokens_per_second (input tokens of all processes), mfu (model FLOPs over the devices'
    bf16 peak, where that is known), skipped (true where no update was made; loss and grad_norm may be NaN there) and,
    where the step ended with an evaluation, validation_loss (after the update); the first line also
    start_validation_loss (before any update). `wandb_project` asks for a second twin, on Weights & Biases.
    """

    def __init__(self, work_dir: Path, first_step: int, wandb_project: str | None = None) -> None:
        # 0.6 s, which only the process that writes the curves pays
        from torch.utils.tensorboard import SummaryWriter

        self.path = work_dir / METRICS_FILE
        _cut_back(self.path, first_step)
        with disk_errors(self.path):
            self.file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115
            self.board = SummaryWriter(str(work_dir / "tensorboard"), purge_step=first_step, max_queue=100)
        self.online = OnlineCurves(wandb_project, work_dir) if wandb_project else None

    def __enter__(self) -> Metrics:
        return self

    def __exit__(self, *error: object) -> None:
        self.file.close()
        self.board.close()
        if self.online:
            self.online.close()

    def write(self, line: dict[str, Any]) -> None:
        with disk_errors(self.path):
            self.file.write(json.dumps(line) + "\n")
            self.file.flush()
        for name in _CURVES:
            if name in line:
                self.board.add_scalar(name, line[name], line["step"])
        if self.online:
            self.online.write(line)

    def sync(self) -> None:
        """Bring the lines to the disk: a checkpoint promises the lines of all steps before it."""
        with disk_errors(self.path):
            os.fsync(self.file.fileno())
        self.board.flush()


def read_metrics(work_dir: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics.jsonl; a torn last line (the run was killed) is left out."""
    path = work_dir / METRICS_FILE
    lines: list[dict[str, Any]] = []
    if not path.exists():
        return lines
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(text))
        except ValueError:
            break
    return lines


def _cut_back(path: Path, first_step: int) -> None:
    """Drop the lines of steps that will be taken again."""
    kept = [line for line in read_metrics(path.parent) if line["step"] < first_step]
    if len(kept) != first_step:
        log.warning("%s holds %d of the %d steps before this one: the others are lost", path, len(kept), first_step)
    write_atomically(path, "".join(json.dumps(line) + "\n" for line in kept).encode())
