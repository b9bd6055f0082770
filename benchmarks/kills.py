"""A hundred kills at random moments, of a build and of a training run: ten times the test of ten kills, compared in bytes."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from results import append, row

TESTS = {
    "kill -9 of a build": "tests/pipeline/test_interrupted.py::test_killed_at_random_moments_the_build_ends_with_the_same_bytes",
    "kill -9 of a training run": "tests/trainer/test_resume.py::test_killed_at_random_moments_it_ends_with_the_same_bits",
}
N_ROUNDS, KILLS_PER_ROUND = 10, 10


def main() -> None:
    """Without arguments both; else those whose name holds the first argument."""
    asked = sys.argv[1] if len(sys.argv) > 1 else ""
    for what, test in TESTS.items():
        if asked not in what:
            continue
        started = time.monotonic()
        for _ in range(N_ROUNDS):
            subprocess.run([sys.executable, "-m", "pytest", "-q", test], cwd=Path(__file__).parents[1], check=True)
        n_kills = N_ROUNDS * KILLS_PER_ROUND
        notes = f"byte-identical every time; {time.monotonic() - started:.0f} s"
        append([row(what, f"{n_kills} kills", n_kills, "survived", notes=notes)])


if __name__ == "__main__":
    main()
