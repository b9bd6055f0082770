"""What checkpoints cost a training run: the wait for the copy, and the steps beside which one is written.

The 4-layer d256 hybrid of the other measurements, in one process, a checkpoint every EVERY steps; the same run without any,
steps in turn, says what a step costs. Both are times of the loop's own thread on a processor, for on a machine that others
use the clock tells of them: the copy is made by that thread alone. What the writing thread takes from the steps is wall time.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from hybrid_peer import HYBRID
from results import append, row, spread

from tilth.models.decoder import Decoder
from tilth.trainer.config import TrainConfig
from tilth.trainer.optim import make_optimizer
from tilth.trainer.saving import Checkpointer
from tilth.trainer.world import World

CONFIG = TrainConfig(steps=1, seq_len=512, global_batch=8)
EVERY, ROUNDS = 5, 6


def main() -> None:
    model = Decoder(HYBRID)
    optimizer = make_optimizer(model, CONFIG)
    ids_BT = torch.randint(0, HYBRID.vocab_size, (CONFIG.global_batch, CONFIG.seq_len))

    def step() -> tuple[float, float]:
        began = time.thread_time(), time.perf_counter()
        optimizer.zero_grad()
        loss, count = model.loss(ids_BT, ids_BT.roll(-1, 1))
        (loss / count).backward()
        optimizer.step()
        return time.thread_time() - began[0], time.perf_counter() - began[1]

    torch.set_num_threads(1)
    step()
    stalls, beside, alone = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        place: dict[str, Any] = {}
        saver = Checkpointer(Path(folder), model, optimizer, World(0, 1, torch.device("cpu")), {}, place)
        with saver:
            for number in range(ROUNDS):
                alone += [step() for _ in range(EVERY)]
                began = time.thread_time()
                saver.save(number, {})
                stalls.append(time.thread_time() - began)
                beside += [step() for _ in range(EVERY)]
                saver.wait()
    first, later = stalls[0], statistics.median(stalls[1:])
    seconds = statistics.median(thread for thread, _ in alone)
    n_bytes = 3 * 4 * sum(p.numel() for p in model.parameters())
    size = f"hybrid d256 x4, {n_bytes / 1e6:.0f} MB, a step of {seconds * 1e3:.0f} ms"
    notes = (
        f"the copy takes {later * 1e3:.1f} ms ({spread(stalls[1:])} s), the first {first * 1e3:.0f} ms; one every {EVERY} steps"
    )
    slower = 100 * (statistics.mean(wall for _, wall in beside) / statistics.mean(wall for _, wall in alone) - 1)
    append(
        [
            row("checkpoint stall", size, 100 * later / seconds, "% of a step", notes=notes, threads=1),
            row(
                "checkpoint stall, over the interval",
                size,
                100 * later / (EVERY * seconds),
                "% of a step",
                notes=notes,
                threads=1,
            ),
            row(
                "checkpoint written beside",
                size,
                slower,
                "% slower steps",
                notes=f"mean of {len(beside)} steps after a save; wall time",
                threads=1,
            ),
        ]
    )


if __name__ == "__main__":
    main()
