"""Parameters in shards: one layer is whole at a time, and an update is that of one process, in every setting."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).with_name("run_layouts.py")
HAS_COMPILER = bool(shutil.which("g++") or shutil.which("clang++"))


@pytest.fixture(scope="module")
def report() -> dict[str, dict[str, float]]:
    """What the first of two processes of run_layouts.py found."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = str(listener.getsockname()[1])
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    settings = ["plain", "recompute", "muon"] + ["compile"] * HAS_COMPILER
    pair = [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), *settings],
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    ends = [process.communicate(timeout=300) for process in pair]
    assert [process.returncode for process in pair] == [0, 0], ends
    found: dict[str, Any] = json.loads(ends[0][0])
    return found


# Muon orthogonalises in bf16, which turns the last bit of a sum into a percent of what it is for.
@pytest.mark.parametrize(("setting", "tolerance"), [("plain", 1e-4), ("recompute", 1e-4), ("muon", 0.05), ("compile", 1e-4)])
def test_an_update_in_shards_is_that_of_one_process(setting: str, tolerance: float, report: dict[str, dict[str, float]]) -> None:
    if setting == "compile" and not HAS_COMPILER:
        pytest.skip("torch.compile needs a C++ compiler")
    found = report[setting]
    assert found["loss"] < 1e-6
    assert found["norm"] < 1e-6
    assert found["update"] < tolerance


def test_one_layer_is_whole_at_a_time(report: dict[str, dict[str, float]]) -> None:
    assert report["whole"] == {"forwards": 1, "backwards": 1, "of": 8, "left": 0}
