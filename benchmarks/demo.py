"""Seconds and peak memory of `make demo` on two cores, stage by stage, and of a second build that finds all of it there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from results import append, row

REPOSITORY = Path(__file__).parents[1]
STAGE = re.compile(r"^  (\S.*?)\s{2,}([\d.]+)\s+(\d+)$", re.MULTILINE)
N_CORES = 2


def main() -> None:
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:N_CORES])
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "clone"
        subprocess.run(["git", "clone", "--quiet", REPOSITORY, clone], check=True)
        done = subprocess.run([sys.executable, "scripts/demo.py"], cwd=clone, text=True, stdout=subprocess.PIPE, check=True)
        stages = STAGE.findall(done.stdout)
        rows = [
            row(f"demo: {stage}", "10 MB in", float(seconds), "s", notes=f"peak {peak} MB") for stage, seconds, peak in stages
        ]
        again = subprocess.run(
            [sys.executable, "-m", "tilth", "build", "demo"], cwd=clone, text=True, stderr=subprocess.PIPE, check=True
        )
        seconds = re.search(r"up to date \(([\d.]+) s\)", again.stderr)
        assert seconds, again.stderr
        rows.append(row("demo: a second build", "10 MB in", float(seconds[1]), "s"))
        shutil.rmtree(clone)
    append(rows)


if __name__ == "__main__":
    main()
