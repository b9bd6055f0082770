"""What only a GPU can tell of the kernels: whether they are right there, how fast they are, and with which launches.

    python benchmarks/gpu.py check [--only OPERATOR ...] [--out FOLDER] [--seconds 240]
    python benchmarks/gpu.py bench [--only OPERATOR ...] [--out FOLDER] [--seconds 300]
    python benchmarks/gpu.py tune  [--only OPERATOR ...] [--out FOLDER] [--seconds 300]

`check` holds every operator to its reference in bfloat16, float16 and float32 and hunts for races; `bench` times it
against its peers in the same process, and only where the check of the same call passed; `tune` tries other launches and
writes those that are faster into launches.json. Each stops by itself after --seconds and says what it did not reach.
With --device cpu the script itself can be tried without a GPU: the kernels then run in Triton's interpreter (set
TRITON_INTERPRET=1) on `check_calls` only.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from gpu_bench import bench
from gpu_check import check
from gpu_tune import tune
from kernel_calls import modules


class Deadline:
    """Yields items until the time is over; `missed` are those that were not reached."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds
        self.missed: list[str] = []

    def take(self, names: list[str]) -> Iterator[str]:
        for name in names:
            if time.monotonic() > self._end:
                self.missed.append(name)
            else:
                yield name

    @property
    def is_over(self) -> bool:
        return time.monotonic() > self._end


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("check", "bench", "tune"))
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--backend", help="by default the one that the device chooses")
    parser.add_argument("--out", type=Path, default=Path("gpu_results"))
    parser.add_argument("--seconds", type=float, default=280)
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        sys.exit("There is no GPU here. With --device cpu and TRITON_INTERPRET=1 the script can be tried without one.")
    options.out.mkdir(parents=True, exist_ok=True)
    found = modules()
    if unknown := [name for name in options.only if name not in found]:
        sys.exit(f"No calls are known of {', '.join(unknown)}; there are {', '.join(found)}.")
    print(describe(options.device))
    deadline = Deadline(options.seconds)
    chosen = {name: module for name, module in found.items() if not options.only or name in options.only}
    run = {"check": check, "bench": bench, "tune": tune}[options.what]
    problems = run(chosen, options.device, options.backend, options.out, deadline)
    (options.out / f"{options.what}.json").write_text(json.dumps({"problems": problems, "missed": deadline.missed}, indent=1))
    print(f"{len(problems)} problems; not reached: {', '.join(deadline.missed) or 'nothing'}")
    sys.exit(1 if problems or deadline.missed else 0)


def describe(device: str) -> str:
    """Return the device, its driver and clock, and the versions that results depend on."""
    import triton

    versions = f"torch {torch.__version__}, triton {triton.__version__}"
    if device == "cpu":
        return f"CPU, {versions}"
    properties = torch.cuda.get_device_properties(0)
    clock = f"{torch.cuda.clock_rate()} MHz" if hasattr(torch.cuda, "clock_rate") else "clock unknown"
    return (
        f"{properties.name}, {properties.multi_processor_count} multiprocessors, {clock}, CUDA {torch.version.cuda}, {versions}"
    )


if __name__ == "__main__":
    main()
