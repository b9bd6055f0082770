"""Rows of results.csv: what was measured, on which commit and machine, against which peer in the same run."""

from __future__ import annotations

import csv
import datetime
import os
import platform
import statistics
import subprocess
from pathlib import Path

RESULTS = Path(__file__).parent / "results.csv"
COLUMNS = ("date", "commit", "machine", "what", "size", "ours", "peer", "unit", "ratio", "notes")


def row(
    what: str, size: str, ours: float, unit: str, peer: float | None = None, notes: str = "", threads: int | None = None
) -> dict[str, str]:
    """One line of results.csv. `ratio` is peer / ours: for times and bytes, above 1 ours is better."""
    return {
        "date": datetime.date.today().isoformat(),
        "commit": _commit(),
        "machine": f"{_cpu_name()}, {threads or len(os.sched_getaffinity(0))} threads",
        "what": what,
        "size": size,
        "ours": f"{ours:.4g}",
        "peer": "" if peer is None else f"{peer:.4g}",
        "unit": unit,
        "ratio": "" if peer is None else f"{peer / ours:.2f}",
        "notes": notes,
    }


def spread(values: list[float]) -> str:
    """The 10th to the 90th percentile: on a shared machine it tells how far a median can be trusted."""
    tenths = statistics.quantiles(values, n=10)
    return f"{tenths[0]:.3g}-{tenths[-1]:.3g}"


def append(rows: list[dict[str, str]]) -> None:
    """Print the rows and add them to results.csv."""
    is_new = not RESULTS.exists()
    with RESULTS.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if is_new:
            writer.writeheader()
        for values in rows:
            writer.writerow(values)
            print("  ".join(values[name] for name in ("what", "size", "ours", "peer", "unit", "ratio", "notes") if values[name]))


def _commit() -> str:
    found = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=RESULTS.parent, capture_output=True, text=True, check=False
    )
    return found.stdout.strip() or "none"


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
