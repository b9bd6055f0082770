"""Times every operator against its peers, taking turns in one process, and against what the machine can do at most."""

from __future__ import annotations

import contextlib
import math
import statistics
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import results
import torch
from gpu_check import check_call
from kernel_calls import Call
from torch import Tensor

from tilth.kernels import use_backend

ROUNDS = 15
MAX_MILLISECONDS = 4000  # of one call with all its peers


def bench(modules: dict[str, ModuleType], device: str, backend: str | None, out: Path, deadline: Any) -> list[str]:
    """Append a row for each call, direction and peer to results.csv in `out`, and return what went wrong.

    A call is timed only after one of its operator's small calls equals the reference in the same process.
    """
    results.RESULTS = out / "results.csv"
    clock = Clock(device)
    problems: list[str] = []
    dtype = torch.bfloat16 if device == "cuda" else torch.float32  # the interpreter computes bfloat16 wrongly
    roof = machine(clock) if device == "cuda" else {"flops": math.nan, "bytes": math.nan}
    for name in deadline.take(list(modules)):
        module = modules[name]
        problem = next((check_call(call, backend, repeats=2) for call in module.check_calls(dtype, device)), [])
        if problem:
            problems.append(f"{name} is wrong, and so is not timed: {problem[0]}")
            continue
        for call in module.bench_calls(device):
            if deadline.is_over:
                deadline.missed.append(f"{name} from {call.name} on")
                break
            try:
                results.append(time_call(name, call, backend, clock, roof))
            except Exception as error:
                problems.append(f"{name} {call.name}: {error!r:.500}")
            if device == "cuda":
                torch.cuda.empty_cache()
    return problems


def machine(clock: Clock) -> dict[str, float]:
    """Return what this GPU does at most, measured: a bfloat16 product of 8192 and a copy of 2 GiB, read and written."""
    a = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    source = torch.empty(2**30, device="cuda", dtype=torch.bfloat16)
    target = torch.empty_like(source)
    product, copy = clock.take_turns([lambda: a @ a, lambda: target.copy_(source)])
    roof = {
        "flops": 2 * 8192**3 / statistics.median(product) * 1e3,
        "bytes": 2 * source.nbytes / statistics.median(copy) * 1e3,
    }
    results.append(
        [
            results.row("GPU roof: bf16 product", "8192^3", roof["flops"] / 1e12, "TFLOP/s"),
            results.row("GPU roof: copy", "2 GiB", roof["bytes"] / 1e12, "TB/s"),
        ]
    )
    return roof


def time_call(name: str, call: Call, backend: str | None, clock: Clock, roof: dict[str, float]) -> list[dict[str, str]]:
    """Return the rows of one call: forward, and backward alone where there are gradients, by every peer that is there."""
    functions: dict[str, Callable[..., Any]] = {"tilth": call.function, **call.peers}
    directions = ["forward", "backward"] if call.gradients else ["forward"]
    rows = []
    for direction in directions:
        timed, missing = {}, {}
        for label, function in functions.items():
            with use_backend(backend) if backend and label == "tilth" else contextlib.nullcontext():
                try:
                    run = prepared(call, function, direction)
                    run()  # compiles
                    timed[label] = run
                except Exception as error:
                    if label == "tilth":
                        raise
                    missing[label] = repr(error)[:120]
        times = dict(zip(timed, clock.take_turns(list(timed.values())), strict=True))
        rows += rows_of(name, call, direction, times, roof)
        for label, why in missing.items():
            print(f"PEER MISSING: {name} {call.name} {direction}: {label}: {why}")
    return rows


def prepared(call: Call, function: Callable[..., Any], direction: str) -> Callable[[], Any]:
    """Return what is timed: the forward under no_grad, or the backward of one forward made before."""
    if direction == "forward":

        def forward() -> Any:
            with torch.no_grad():
                return function(**call.tensors, **call.options)

        return forward
    leaves = {
        key: value.detach().requires_grad_() if _is_leaf(call, key, value) else value for key, value in call.tensors.items()
    }
    outputs = function(**leaves, **call.options)
    first = outputs[0] if isinstance(outputs, tuple) else outputs
    gradient = torch.ones_like(first)
    inputs = [value for value in leaves.values() if isinstance(value, Tensor) and value.requires_grad]
    return lambda: torch.autograd.grad(first, inputs, gradient, retain_graph=True, allow_unused=True)


def _is_leaf(call: Call, key: str, value: Tensor | None) -> bool:
    return value is not None and value.is_floating_point() and key not in call.without_gradient


def rows_of(name: str, call: Call, direction: str, times: dict[str, list[float]], roof: dict[str, float]) -> list[dict[str, str]]:
    """Return one row a peer; where there is none, one row of ours alone."""
    ours = statistics.median(times["tilth"])
    flops, n_bytes = getattr(call, f"{direction}_flops"), getattr(call, f"{direction}_bytes")
    work = []
    if flops:
        rate = flops / ours * 1e3
        work.append(f"{rate / 1e12:.0f} TFLOP/s, {rate / roof['flops']:.0%} of the product's")
    if n_bytes:
        rate = n_bytes / ours * 1e3
        work.append(f"{rate / 1e12:.2f} TB/s, {rate / roof['bytes']:.0%} of the copy's")
    note = "; ".join([*work, f"p10-p90 {results.spread(times['tilth'])}", f"torch {torch.__version__}"])
    what = f"GPU {name} {direction}"
    peers = [label for label in times if label != "tilth"]
    if not peers:
        return [results.row(what, call.name, ours, "ms", notes=note)]
    return [
        results.row(
            what,
            call.name,
            ours,
            "ms",
            statistics.median(times[peer]),
            f"peer: {peer}, p10-p90 {results.spread(times[peer])}; {note}",
        )
        for peer in peers
    ]


class Clock:
    """Times functions on a device, in turns, each with a cold L2 cache."""

    def __init__(self, device: str) -> None:
        self.device = device
        self._flush = torch.empty(2**28 if device == "cuda" else 1, dtype=torch.int8, device=device)

    def take_turns(self, functions: list[Callable[[], Any]]) -> list[list[float]]:
        """Return milliseconds of each function in each round."""
        once = [self._milliseconds(function) for function in functions]
        rounds = max(3, min(ROUNDS, int(MAX_MILLISECONDS / max(sum(once), 1e-3))))
        found: list[list[float]] = [[] for _ in functions]
        for _ in range(rounds):
            for function, times in zip(functions, found, strict=True):
                times.append(self._milliseconds(function))
        return found

    def _milliseconds(self, function: Callable[[], Any]) -> float:
        import time

        self._flush.zero_()
        if self.device == "cpu":
            start = time.perf_counter()
            function()
            return (time.perf_counter() - start) * 1e3
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        function()
        end.record()
        torch.cuda.synchronize()
        return float(begin.elapsed_time(end))
