"""Training runs that are killed at random moments and begun again, until they end. argv: setup, number of kills, seed.

Each is forked from this process, so that it begins with the training and not with seconds of imports. Prints the folders
of the runs that ended, and what was there at each kill: the lines of the metrics, and whether a checkpoint was half written.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch.utils.tensorboard  # noqa: F401 (a second, which each run would pay)

from tilth.models.config import ModelConfig
from tilth.trainer import loop
from tilth.trainer.config import TrainConfig
from tilth.trainer.metrics import read_metrics


def start(setup: dict[str, Any], work_dir: Path) -> int:
    """The id of a process that trains in work_dir."""
    process = os.fork()
    if process:
        return process
    try:
        model, config = ModelConfig.from_dict(setup["model"]), TrainConfig.from_dict(setup["train"])
        loop.train(model, config, Path(setup["tokens"]), Path(setup["validation"]), work_dir)
        os._exit(0)
    finally:
        os._exit(1)


def ended(process: int) -> bool:
    """Wait for the end of process; False when it was killed."""
    _, status = os.waitpid(process, 0)
    code = os.waitstatus_to_exitcode(status)
    if code not in (0, -signal.SIGKILL):
        sys.exit(f"a run ended with {code}")
    return code == 0


def main() -> None:
    setup, n_kills, rng = json.loads(Path(sys.argv[1]).read_text()), int(sys.argv[2]), random.Random(int(sys.argv[3]))
    parent = Path(setup["work_dir"])
    runs, moments = [parent / "0"], []
    began = time.monotonic()
    ended(start(setup, runs[0]))
    seconds = time.monotonic() - began
    runs.append(parent / "1")
    while len(moments) < n_kills:
        process = start(setup, runs[-1])
        time.sleep(rng.random() * seconds)
        os.kill(process, signal.SIGKILL)
        if ended(process):
            runs.append(parent / str(len(runs)))
            continue
        half = [path for path in (runs[-1] / "checkpoints").glob(".partial-*") if "old" not in path.name]
        moments.append([len(read_metrics(runs[-1])), len(half)])
    ended(start(setup, runs[-1]))
    print(json.dumps({"runs": [str(run) for run in runs], "moments": moments}))


if __name__ == "__main__":
    main()
