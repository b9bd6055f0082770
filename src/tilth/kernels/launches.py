"""Block sizes, warps and stages of each kernel, from the table `launches.json` that lies beside it.

Nothing is tuned while a program runs: that would make results and times depend on the day. `benchmarks/gpu.py tune`
measures the candidates on a GPU and writes the tables.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path

import torch
from torch import Tensor

from tilth.errors import BackendError
from tilth.kernels.backend import gpu_arch

_ARCHITECTURES = (100, 90, 80)
requested: set[tuple[str, str, str]] = set()
"""(operator, kernel, key) of every launch that was asked for: what tuning has to look at."""


def launch(operator: str, kernel: str, like: Tensor, bucket: str) -> dict[str, int]:
    """Return the options of `kernel` for the device and the width of the type of `like`, and the shape's `bucket`.

    The dict is the caller's. Raises BackendError where the table has none: the kernel does not hold such a shape.
    """
    key = f"sm_{gpu_arch(like.device)} {like.element_size() * 8}-bit {bucket}"
    requested.add((operator, kernel, key))
    return dict(find(operator, kernel, key))


def find(operator: str, kernel: str, key: str) -> dict[str, int]:
    """Return the entry of `key`; a GPU without an entry of its own takes that of the next older one."""
    entries = table(operator).get(kernel, {})
    gpu, _, rest = key.partition(" ")
    arch = int(gpu.removeprefix("sm_"))
    for known in (arch, *_ARCHITECTURES):
        if known <= arch and (options := entries.get(f"sm_{known} {rest}")) is not None:
            return options
    raise BackendError(
        f"{operator} has no launch for {rest.replace(' ', ' values and ', 1)}.",
        where=f"kernel {kernel}, {gpu}",
        fix="Use the backend `reference`, or add an entry to its launches.json.",
    )


@functools.cache
def table(operator: str) -> dict[str, dict[str, dict[str, int]]]:
    """Return the launches of an operator: kernel -> key -> options."""
    read: dict[str, dict[str, dict[str, int]]] = json.loads((Path(__file__).parent / operator / "launches.json").read_text())
    return read


def precision(dtype: torch.dtype) -> str:
    """Return the `input_precision` of tl.dot: plain tf32 would keep 10 bits of a float32, three products keep nearly all."""
    return "tf32x3" if dtype == torch.float32 else "tf32"
