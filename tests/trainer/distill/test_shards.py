"""A student whose parameters lie in shards (FSDP2) has the gradients of one that is whole; one in slices is refused."""

from __future__ import annotations

import copy
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tilth.errors import RecipeError
from tilth.models.decoder import Decoder
from tilth.models.tensor_ranks import TensorRanks
from tilth.trainer.distill.alignment import Alignment
from tilth.trainer.distill.orientation import Orientation
from tilth.trainer.distill.student import make_student, student_config

SCRIPT = Path(__file__).with_name("run_shards.py")


def test_gradients_in_shards_are_those_of_one_process() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = str(listener.getsockname()[1])
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    pair = [
        subprocess.Popen(
            [sys.executable, str(SCRIPT)],
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    ends = [process.communicate(timeout=300) for process in pair]
    assert [process.returncode for process in pair] == [0, 0], ends
    report = json.loads(ends[0][0])
    assert report.keys() == {"Orientation", "Alignment", "Distillation", "Preferences"}
    for found in report.values():
        assert found["missing"] == []
        assert found["largest"] > 0
        assert found["off"] < 1e-5


@pytest.mark.parametrize("objective", [Orientation, Alignment])
def test_slices_are_refused(objective: type[Orientation | Alignment], make_model: Callable[..., Decoder]) -> None:
    teacher = make_model("AA")
    student = make_student(teacher, student_config(teacher.config, "DD"))
    slice_of_it = copy.deepcopy(student)
    slice_of_it.ranks = TensorRanks(0, 2, None)
    ids = torch.zeros(1, 4, dtype=torch.long)
    with pytest.raises(RecipeError, match="each process holds a slice"):
        objective(teacher).loss(slice_of_it, (ids, ids, ids.int()))
