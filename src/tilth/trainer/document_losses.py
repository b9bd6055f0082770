"""The loss of each document in each step: rows beside the metrics, cut back with them, one table in the end."""

from __future__ import annotations

import bisect
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from tilth.artifacts.atomic import disk_errors
from tilth.contracts import DOCUMENT_LOSSES, check
from tilth.tokenize.order import SequencePlan
from tilth.trainer.data import Batch
from tilth.trainer.world import World

log = logging.getLogger(__name__)
TABLE = "document_losses.parquet"
_FOLDER = "document_losses"
_ROWS_A_GROUP = 8_192  # a step is found by the statistics of its group
_ROWS_AT_ONCE = 1_000_000
_ROW = np.dtype(
    {
        "names": ["step", "sequence", "piece", "source", "document", "start", "n_targets", "loss_sum"],
        "formats": ["<i8", "<i4", "<i4", "<i4", "<i8", "<i8", "<i4", "<f8"],
    }
)


class DocumentLosses:
    """What one process writes: of each step a row for every piece of its sequences that has targets.

    Each process has a file of rows of one size. Those of a step are written before the processes exchange anything of
    that step: none can publish a checkpoint whose rows another has yet to write.
    """

    def __init__(self, work_dir: Path, first_step: int, world: World) -> None:
        folder = work_dir / _FOLDER
        self.path, self._plans = folder / f"{world.data_rank:05d}.rows", list[SequencePlan]()
        self._sums: list[Tensor] = []
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            # The files of an earlier, larger world are cut by those that are left.
            for path in folder.glob("*.rows"):
                if int(path.stem) % world.data_size == world.data_rank:
                    _cut_back(path, first_step)

    def begin(self, plans: Sequence[SequencePlan]) -> None:
        """Say what the micro-batches of this process will hold together: `plans`, in this order."""
        self._plans = list(plans)
        self._sums.clear()

    def add(self, batch: Batch, loss_BT: Tensor) -> None:
        """Take the losses (nats, 0 where there is no target) of the next micro-batch. Nothing waits for the device."""
        _, targets_BT, segments_BT, *_ = batch
        width, device = self._width, segments_BT.device
        piece_S = (segments_BT + width * torch.arange(len(segments_BT), device=device).unsqueeze(1)).flatten()
        values_S2 = torch.stack([(targets_BT >= 0).double(), loss_BT.double()], -1).view(-1, 2)
        sums_P2 = values_S2.new_zeros(len(segments_BT) * width, 2)
        self._sums.append(sums_P2.index_add_(0, piece_S, values_S2))

    def write(self, step: int) -> None:
        """Write the rows of `step`."""
        sums_P2 = torch.cat(self._sums).cpu().numpy()
        width, found = self._width, []
        for row, plan in enumerate(self._plans):
            own = enumerate(zip(plan.read_order, sums_P2[row * width :], strict=False))
            found += [(step, plan.number, i, plan.source, piece.document, piece.start, *sums) for i, (piece, sums) in own]
        rows = np.array(found, _ROW)
        with disk_errors(self.path), open(self.path, "ab") as file:
            file.write(rows[rows["n_targets"] > 0].tobytes())

    def sync(self) -> None:
        """Bring the rows to the disk, as a checkpoint promises."""
        with disk_errors(self.path), open(self.path, "ab") as file:
            os.fsync(file.fileno())

    @property
    def _width(self) -> int:
        return max(map(len, self._plans)) + 1  # what pads a document is a segment behind its pieces


def write_table(work_dir: Path, sources: Sequence[str], n_targets: int) -> None:
    """Write what all processes wrote as `document_losses.parquet` (contract document_losses/1), in order of step and sequence.

    `n_targets` is what the metrics counted: says in the log when the rows do not hold as many.
    """
    files = [rows for path in sorted((work_dir / _FOLDER).glob("*.rows")) if len(rows := _rows(path))]
    n_found = 0
    with disk_errors(work_dir), pq.ParquetWriter(work_dir / TABLE, DOCUMENT_LOSSES.schema, compression="zstd") as writer:
        for rows in _by_steps(files):
            n_found += int(rows["n_targets"].sum())
            names = pa.array([sources[number] for number in rows["source"].tolist()], pa.string())
            columns = {name: names if name == "subset" else rows[name] for name in DOCUMENT_LOSSES.schema.names}
            table = pa.table(columns, DOCUMENT_LOSSES.schema)
            check(table, DOCUMENT_LOSSES)
            writer.write_table(table, _ROWS_A_GROUP)
    if n_found != n_targets:
        log.warning("%s holds the losses of %d of %d targets: the others are lost", work_dir / TABLE, n_found, n_targets)


def _by_steps(files: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
    """The rows of all files in order, whole steps and about a million rows at a time."""
    n_steps = max((int(rows[-1]["step"]) + 1 for rows in files), default=0)
    stride = max(1, _ROWS_AT_ONCE * n_steps // max(1, sum(map(len, files))))
    for first in range(0, n_steps, stride):
        found = np.concatenate([rows[_place(rows, first) : _place(rows, first + stride)] for rows in files])
        yield found[np.lexsort((found["piece"], found["sequence"], found["step"]))]


def _place(rows: np.ndarray, step: int) -> int:
    """Where the rows of `step` begin: a file is in order of steps, and too large to look at as a whole."""
    return bisect.bisect_left(rows, step, key=lambda row: row["step"])


def _rows(path: Path) -> np.ndarray:
    """The whole rows of a file, mapped; a torn last one (the process was killed) is left out."""
    n_rows = path.stat().st_size // _ROW.itemsize
    return np.memmap(path, _ROW, "r", shape=(n_rows,)) if n_rows else np.empty(0, _ROW)


def _cut_back(path: Path, first_step: int) -> None:
    """Drop the rows of steps that will be taken again."""
    os.truncate(path, _place(_rows(path), first_step) * _ROW.itemsize)
