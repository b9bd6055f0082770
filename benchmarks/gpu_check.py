"""Holds every operator on a device to its reference, and runs it again and again to see whether the bits stay."""

from __future__ import annotations

import contextlib
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from kernel_calls import Call
from torch import Tensor

from tilth.kernels import use_backend
from tilth.kernels.accuracy import deviations, poisoned_memory

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
REPEATS = 20


def check(modules: dict[str, ModuleType], device: str, backend: str | None, _out: Path, deadline: Any) -> list[str]:
    """Print a line a call and return what is wrong, one line a problem."""
    problems: list[str] = []
    # Triton's interpreter computes bfloat16 wrongly.
    dtypes = DTYPES if device == "cuda" else DTYPES[1:]
    for name in deadline.take(list(modules)):
        for dtype in dtypes:
            for call in modules[name].check_calls(dtype, device):
                if deadline.is_over:
                    deadline.missed.append(f"{name} from {call.name} in {dtype} on")
                    break
                found = check_call(call, backend or ("triton" if device == "cpu" else None))
                label = f"{name} {str(dtype).removeprefix('torch.')} {call.name}"
                print(f"{'ok   ' if not found else 'WRONG'} {label}", flush=True)
                problems += [f"{label}: {problem}" for problem in found]
    for problem in problems:
        print(problem)
    return problems


def check_call(call: Call, backend: str | None, repeats: int = REPEATS) -> list[str]:
    """Return what is wrong with one call: errors above the rule, bits that change, or an exception."""
    try:
        with poisoned_memory():
            found = deviations(
                call.function,
                backend,
                call.tensors,
                without_gradient=call.without_gradient,
                gradients=call.gradients,
                **call.options,
            )
            wrong = [f"{d.name} is off by {d.error:.3g}, allowed {d.allowed:.3g}" for d in found if not d.is_allowed]
            return wrong + changed_bits(call, backend, repeats)
    except Exception:
        return [traceback.format_exc(limit=3)]


def changed_bits(call: Call, backend: str | None, repeats: int) -> list[str]:
    """Return which outputs and gradients change from run to run: a race, or reading what nobody wrote."""
    with use_backend(backend) if backend else contextlib.nullcontext():
        first = call.run()
        changed = set()
        for _ in range(repeats):
            again = call.run()
            changed |= {name for name in first if not _same_bits(first[name], again[name])}
    return [f"{name} changes from run to run" for name in sorted(changed)]


def _same_bits(a: Tensor, b: Tensor) -> bool:
    return torch.equal(a.contiguous().flatten().view(torch.uint8), b.contiguous().flatten().view(torch.uint8))
