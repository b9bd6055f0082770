"""What a whole process and its children cost: CPU-seconds (user and system), peak memory, seconds by the clock.

    python process_cost.py REPORT COMMAND...        runs the command, writes the figures as JSON

`cost_of` runs this file as a small process of its own between the caller and the command, because a new process inherits the
peak of the one that it is forked from. The peak is that of the largest single process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple


class Cost(NamedTuple):
    """Of one run; `peak` in bytes."""

    cpu_seconds: float
    wall_seconds: float
    peak: int
    exit_code: int
    output: str


def cost_of(
    command: list[str], environment: dict[str, str] | None = None, kill_after: float | None = None, where: Path | None = None
) -> Cost:
    """Run a command in the folder `where` with all threads that it wants; what it prints is in `output`.

    `kill_after`: seconds until kill -9.
    """
    with tempfile.TemporaryDirectory(prefix="tilth-bench-") as folder:
        report, log = Path(folder) / "report", Path(folder) / "log"
        launcher = [sys.executable, "-S", "-E", __file__, str(report), str(kill_after or 0), *command]
        with log.open("wb") as output:
            subprocess.run(launcher, env=environment, stdout=output, stderr=subprocess.STDOUT, cwd=where, check=True)
        return Cost(**json.loads(report.read_text()), output=log.read_text(errors="replace"))


def successful(command: list[str], environment: dict[str, str] | None = None, where: Path | None = None) -> Cost:
    """`cost_of`, and the end of the benchmark where the command fails."""
    cost = cost_of(command, environment, where=where)
    if cost.exit_code:
        sys.exit(f"{' '.join(command[:4])} ... ended with {cost.exit_code}:\n{cost.output[-2000:]}")
    return cost


def _launch(report: str, kill_after: float, command: list[str]) -> None:
    started = time.monotonic()
    # A group of its own: a kill takes the workers with it.
    child = subprocess.Popen(command, start_new_session=True)
    if kill_after:
        time.sleep(kill_after)
        if child.poll() is None:
            os.killpg(child.pid, 9)
    _, status, usage = os.wait4(child.pid, 0) if child.returncode is None else (0, child.returncode << 8, None)
    figures = {
        "cpu_seconds": usage.ru_utime + usage.ru_stime if usage else 0.0,
        "wall_seconds": time.monotonic() - started,
        "peak": usage.ru_maxrss * 1024 if usage else 0,
        "exit_code": os.waitstatus_to_exitcode(status),
    }
    Path(report).write_text(json.dumps(figures))


if __name__ == "__main__":
    _launch(sys.argv[1], float(sys.argv[2]), sys.argv[3:])
