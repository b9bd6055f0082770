"""Every kernel that changed since the baseline compiles for each GPU and keeps to the limits; no GPU is needed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.timeout(1200)
def test_what_changed_compiles_for_every_gpu(repository: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop("TRITON_INTERPRET", None)
    gate = repository / "benchmarks" / "compile_gate.py"
    finished = subprocess.run([sys.executable, str(gate)], capture_output=True, text=True, env=environment)
    assert finished.returncode == 0, finished.stdout[-6000:] + finished.stderr[-2000:]
