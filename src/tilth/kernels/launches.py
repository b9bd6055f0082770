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


def launch(operator: str, kernel: str, like: Tensor, bucket: str) -> dict[str, int]:
    """Return the options of `kernel` for the device and the width of the type of `like`, and the shape's `bucket`.

    An architecture without an entry of its own takes that of the next older one. The dict is the caller's.
    Raises BackendError where the table has none: the kernel does not hold such a shape.
    """
    arch = gpu_arch(like.device)
    table = _table(operator).get(kernel, {})
    width = f"{like.element_size() * 8}-bit"
    for known in _ARCHITECTURES:
        if known <= arch and (options := table.get(f"sm_{known} {width} {bucket}")) is not None:
            return dict(options)
    raise BackendError(
        f"{operator} has no Triton launch for {width} values and {bucket}.",
        where=f"kernel {kernel}, sm_{arch}",
        fix="Use the backend `reference`, or add an entry to its launches.json.",
    )


@functools.cache
def _table(operator: str) -> dict[str, dict[str, dict[str, int]]]:
    table: dict[str, dict[str, dict[str, int]]] = json.loads((Path(__file__).parent / operator / "launches.json").read_text())
    return table


def precision(dtype: torch.dtype) -> str:
    """Return the `input_precision` of tl.dot: plain tf32 would keep 10 bits of a float32, three products keep nearly all."""
    return "tf32x3" if dtype == torch.float32 else "tf32"
