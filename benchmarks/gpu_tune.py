"""Looks for faster launches on the GPU that is here, and writes them into the tables beside the kernels."""

from __future__ import annotations

import contextlib
import json
import statistics
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from gpu_bench import Clock, prepared
from gpu_check import check_call
from kernel_calls import Call

from tilth.kernels import launches, use_backend

GAIN = 0.97  # a launch replaces another only where it takes at most this part of its time
MAX_STAGES = 5


def tune(modules: dict[str, ModuleType], device: str, backend: str | None, out: Path, deadline: Any) -> list[str]:
    """Improve each entry that the timed calls use, one option at a time, and write the tables where something was gained.

    A candidate must be right, by the operator's small calls, before it is timed.
    """
    clock = Clock(device)
    for name in deadline.take(list(modules)):
        module = modules[name]
        for call in module.bench_calls(device):
            for entry in used_entries(call, backend):
                if deadline.is_over:
                    deadline.missed.append(f"{name} {call.name} {entry}")
                    continue
                improve(entry, call, module, device, backend, clock, deadline)
        for operator in {operator for operator, _, _ in launches.requested}:
            write(operator, out)
    return []


def used_entries(call: Call, backend: str | None) -> list[tuple[str, str, str]]:
    """Return (operator, kernel, key) of every entry that a call, with its gradients, asks for."""
    launches.requested.clear()
    with use_backend(backend) if backend else contextlib.nullcontext():
        call.run()
    return sorted(launches.requested)


def improve(
    entry: tuple[str, str, str],
    call: Call,
    module: ModuleType,
    device: str,
    backend: str | None,
    clock: Clock,
    deadline: Any,
) -> None:
    """Walk from the present options to the best neighbour until none is faster."""
    operator, kernel, key = entry
    table = launches.table(operator)[kernel]
    had_entry, fallback = key in table, launches.find(operator, kernel, key)
    best, best_time = dict(fallback), timed(call, backend, clock)
    improved = True
    while improved and not deadline.is_over:
        improved = False
        for candidate in neighbours(best):
            table[key] = candidate
            try:
                first = next(iter(module.check_calls(torch.bfloat16 if device == "cuda" else torch.float32, device)))
                if check_call(first, backend, repeats=1):
                    continue
                candidate_time = timed(call, backend, clock)
            except Exception as error:  # too much shared memory, a shape that the kernel does not hold
                print(f"  {operator} {kernel} {key} {candidate}: {error!r:.100}")
                continue
            if candidate_time < GAIN * best_time:
                best, best_time, improved = candidate, candidate_time, True
                print(f"{operator} {kernel} {key}: {best} {best_time:.4g} ms", flush=True)
        table[key] = best
    if best == fallback and not had_entry:
        table.pop(key, None)  # none is better than the entry of the older GPU


def neighbours(options: dict[str, int]) -> Iterator[dict[str, int]]:
    """Yield the options with one of them halved, doubled, or a stage more or less."""
    for name, value in options.items():
        for other in (value - 1, value + 1) if name == "num_stages" else (value // 2, value * 2):
            is_allowed = 1 <= other <= MAX_STAGES if name == "num_stages" else other >= 1
            if is_allowed and not (name == "num_warps" and other > 16):
                yield {**options, name: other}


def timed(call: Call, backend: str | None, clock: Clock) -> float:
    with use_backend(backend) if backend else contextlib.nullcontext():
        total = 0.0
        for direction in ["forward", "backward"] if call.gradients else ["forward"]:
            function = prepared(call, call.function, direction)
            function()
            total += statistics.median(clock.take_turns([function])[0])
    return total


def write(operator: str, out: Path) -> None:
    """Write the table in the source tree and, to be carried away, in `out`."""
    text = json.dumps(launches.table(operator), indent=1) + "\n"
    (Path(launches.__file__).parent / operator / "launches.json").write_text(text)
    (out / f"{operator}.launches.json").write_text(text)
