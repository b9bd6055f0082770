"""A hundred kills at random moments of a build: ten times the test, each of ten kills, compared byte for byte at its end."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from results import append, row

TEST = "tests/pipeline/test_interrupted.py::test_killed_at_random_moments_the_build_ends_with_the_same_bytes"
N_ROUNDS, KILLS_PER_ROUND = 10, 10


def main() -> None:
    started = time.monotonic()
    for _ in range(N_ROUNDS):
        subprocess.run([sys.executable, "-m", "pytest", "-q", TEST], cwd=Path(__file__).parents[1], check=True)
    n_kills = N_ROUNDS * KILLS_PER_ROUND
    seconds = time.monotonic() - started
    append(
        [row("kill -9 of a build", f"{n_kills} kills", n_kills, "survived", notes=f"byte-identical every time; {seconds:.0f} s")]
    )


if __name__ == "__main__":
    main()
