"""Two processes, each with a whole teacher, distil what one does; so they do with the student in shards."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tilth.models.weights import load_model
from tilth.trainer.config import TrainConfig
from tilth.trainer.distill.teacher_pass import store_logits
from tilth.trainer.metrics import read_metrics

# torch.utils.tensorboard still imports what Python 3.12 moved.
pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning:torch.utils.tensorboard",
    "ignore::DeprecationWarning:tensorboard",
)
STAGES: dict[str, dict[str, Any]] = {
    "orientation": {"objective": "orientation"},
    "alignment": {"objective": "alignment"},
    "sharded_orientation": {"objective": "orientation", "shard": True},
    "sharded_alignment": {"objective": "alignment", "shard": True, "recompute": True},
    "sharded": {"objective": "distillation", "shard": True, "kl": "reverse", "temperature": 2.0, "ce_weight": 0.3},
    "sharded_mixers": {"objective": "distillation", "shard": True, "trained": "mixers"},
    "stored_student": {"objective": "distillation"},
}


def test_two_processes_distil_what_one_does(
    distil: Callable[..., Any],
    setup: dict[str, Any],
    teacher: Path,
    student: Path,
    tokens: Path,
    validation: Path,
    tmp_path: Path,
) -> None:
    train = {**setup["train"], "steps": 3, "warmup_steps": 0, "micro_batch": 1, "eval_batches": 1, "eval_every": 0}
    own = {"model": load_model(student).config.to_dict(), "train": train, "teacher": str(teacher), "initial": str(student)}
    path = tmp_path / "setup.json"
    path.write_text(json.dumps({**setup, **own, "stages": STAGES, "work_dir": str(tmp_path / "pair")}))
    script = Path(__file__).with_name("run_pair.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script), str(path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stderr
    logits = tmp_path / "one" / "logits"
    store_logits(teacher, TrainConfig.from_dict(train), tokens, logits, 8)
    files = [
        {file.name: file.read_bytes() for file in (folder).iterdir()} for folder in (logits, tmp_path / "pair/stored/logits")
    ]
    assert files[0] == files[1]
    for name, settings in STAGES.items():
        changed = {**train, **settings, "shard": False, "validation": validation}
        result = distil(name, **changed, teacher_logits=logits if name == "stored_student" else None)
        ours, theirs = read_metrics(tmp_path / "pair" / name), read_metrics(result.folder)
        for column in ("loss", "grad_norm", "n_tokens"):
            np.testing.assert_allclose([line[column] for line in ours], [line[column] for line in theirs], rtol=2e-5)
        assert ours[-1]["validation_loss"] == pytest.approx(theirs[-1]["validation_loss"], rel=1e-5)
        wanted = load_model(result.folder).state_dict()
        for weight, value in load_model(tmp_path / "pair" / name).state_dict().items():
            np.testing.assert_allclose(value, wanted[weight], atol=3e-4)
