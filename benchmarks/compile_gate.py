"""Compiles every shipped kernel configuration for GPUs that are not there, and refuses what would be slow or would not run.

    python benchmarks/compile_gate.py [--only OPERATOR ...] [--arch 90 ...] [--all] [--write] [--workers 2]

The launchers themselves run, on CPU tensors; their kernels are compiled instead of launched, so what is compiled is
what a GPU would get. Refused: spills and stack, a matrix product without tensor cores (on sm_90: any that is not wgmma, or
that the assembler makes wait), more shared memory than the GPU has, warp specialisation that the compiler dropped, and
more than 10 % more registers than in the baseline, compiled.json. A kernel whose source and options are those of the
baseline is not compiled again, but for one in SAMPLE, so that the baseline cannot drift from what the compiler gives;
--all compiles all, --write makes the baseline anew.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import hashlib
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BASELINE = Path(__file__).parent / "compiled.json"
ARCHITECTURES = (80, 90, 100)
DTYPES = ("bfloat16", "float16", "float32")
# Bytes of shared memory that one block may have: CUDA C++ programming guide, technical specifications per compute capability.
SHARED_BYTES = {80: 166_912, 90: 232_448, 100: 232_448}
SAMPLE = 100
MORE_REGISTERS = 1.1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", help="operators; all by default")
    parser.add_argument("--arch", nargs="*", type=int, default=list(ARCHITECTURES))
    parser.add_argument("--dtype", nargs="*", default=list(DTYPES))
    parser.add_argument("--all", action="store_true", help="compile also what is as in the baseline")
    parser.add_argument("--write", action="store_true", help="write what was found as the new baseline")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--part", help=argparse.SUPPRESS)  # a process of its own: a compiler that fails can abort it
    options = parser.parse_args()
    if options.part:
        json.dump(_compile_part(options.part, options.all), sys.stdout)
        return
    sys.exit(_check(options))


def _check(options: argparse.Namespace) -> int:
    from kernel_calls import modules

    start = time.monotonic()
    operators = [name for name in modules() if not options.only or name in options.only]
    parts = [f"{','.join(operators)}/{arch}/{dtype}" for dtype in options.dtype for arch in options.arch]
    baseline = _baseline()
    found: dict[str, dict[str, Any]] = {}
    problems: list[str] = []
    with concurrent.futures.ThreadPoolExecutor(options.workers) as pool:
        for rows, error in pool.map(lambda part: _run_part(part, options.all), parts):
            found |= rows
            problems += [error] if error else []
    problems += [problem for label, row in found.items() for problem in _problems(label, row, baseline.get(label))]
    if options.write:
        made = {f"{name}/{arch}/{dtype}" for name in operators for arch in options.arch for dtype in options.dtype}
        others = {label: row for label, row in baseline.items() if label.split(" ")[0] not in made}
        rows = {label: {k: v for k, v in row.items() if k != "compiled"} for label, row in (others | found).items()}
        BASELINE.write_text(json.dumps(dict(sorted(rows.items())), indent=0) + "\n")
    n_compiled = sum(row["compiled"] for row in found.values())
    seconds = time.monotonic() - start
    print(f"{len(found)} kernel configurations, {n_compiled} compiled in {seconds:.0f} s, {len(problems)} problems")
    for problem in problems:
        print(f"  {problem}")
    return 1 if problems or not found else 0


def _run_part(part: str, everything: bool) -> tuple[dict[str, dict[str, Any]], str | None]:
    """Compile all operators for one GPU and type in a process of its own, which says where it is as it goes."""
    command = [sys.executable, __file__, "--part", part, *(["--all"] if everything else [])]
    finished = subprocess.run(command, capture_output=True, text=True)
    if finished.returncode:
        return {}, f"exit status {finished.returncode}: {finished.stderr[-1500:]}"
    rows: dict[str, dict[str, Any]] = json.loads(finished.stdout)
    return rows, None


def _problems(label: str, row: dict[str, Any], before: dict[str, Any] | None) -> Iterator[str]:
    """What is wrong with one compiled kernel. `claims` are made by the module of its calls, with their reason."""
    _, arch, dtype = label.split(" ")[0].split("/")
    claims = row["claims"]
    # Three tf32 products for one of float32 do not fit the registers: slow there, and allowed.
    if (row["stack"] or row["local"]) and dtype != "float32" and "spills" not in claims:
        yield f"{label}: {row['stack']} bytes of stack, {row['local']} of local memory"
    if row["shared"] > SHARED_BYTES[int(arch)]:
        yield f"{label}: {row['shared']} bytes of shared memory, and sm_{arch} has {SHARED_BYTES[int(arch)]}"
    if row["dots"] and dtype != "float32":
        if not row["tensor_core"]:
            yield f"{label}: a matrix product without tensor cores"
        if int(arch) == 90 and row["old_tensor_core"] and "small products" not in claims:
            yield f"{label}: {row['old_tensor_core']} products by mma instead of wgmma"
    if row["serialized"] and dtype != "float32" and "serialized" not in claims:
        yield f"{label}: the assembler waits after every wgmma"
    if "warp specialised" in claims and not row["setmaxnreg"]:
        yield f"{label}: claims warp specialisation, and the compiler dropped it"
    # Another Triton allots registers in its own way.
    if before is not None and before["triton"] == row["triton"] and row["registers"] > MORE_REGISTERS * before["registers"]:
        yield f"{label}: {row['registers']} registers, {before['registers']} in the baseline"


def _compile_part(part: str, everything: bool) -> dict[str, dict[str, Any]]:
    """Return what each kernel of some operators takes on one GPU and in one type, by label; compiled in this process."""
    import torch
    from kernel_calls import modules

    from tilth.kernels.backend import compiling_for

    names, arch, dtype = part.split("/")
    baseline = {} if everything else _baseline()
    found: dict[str, dict[str, Any]] = {}
    torch.manual_seed(0)
    with compiling_for(int(arch)):
        for name in names.split(","):
            module = modules()[name]
            claims: dict[str, dict[str, str]] = getattr(module, "CLAIMS", {})
            with _compiler(f"{name}/{arch}/{dtype}", baseline, claims, found):
                for call in module.gate_calls(getattr(torch, dtype)):
                    print(f"{name}/{arch}/{dtype} {call.name}", file=sys.stderr, flush=True)
                    call.run()
    return found


@contextlib.contextmanager
def _compiler(
    part: str, baseline: dict[str, Any], claims: dict[str, dict[str, str]], found: dict[str, dict[str, Any]]
) -> Iterator[None]:
    """Compile every kernel that is launched inside the block, and launch none."""
    from triton.backends.compiler import GPUTarget
    from triton.runtime import driver
    from triton.runtime.jit import JITFunction

    arch = int(part.split("/")[1])

    class NoDevice:
        get_current_device = staticmethod(lambda: arch)
        get_current_stream = staticmethod(lambda _device: 0)
        get_current_target = staticmethod(lambda: GPUTarget("cuda", arch, 32))

    def compile_instead(kernel: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        kwargs_of_binder = {**kwargs, "debug": False, "instrumentation_mode": ""}
        bound, specialization, options = kernel.device_caches[arch][4](*args, **kwargs_of_binder)
        key = hashlib.sha256(
            repr((kernel.cache_key, str(specialization), sorted(options.items()), _triton())).encode()
        ).hexdigest()
        constants = [f"{name}={_show(bound[name])}" for name in bound if kernel.params[list(bound).index(name)].is_constexpr]
        constants += [f"{name}={kwargs[name]}" for name in ("num_warps", "num_stages", "maxnreg") if name in kwargs]
        short = hashlib.sha256(str(specialization).encode()).hexdigest()[:6]
        label = f"{part} {kernel.fn.__name__} {' '.join(constants)} #{short}"
        if label in found:
            return
        known = baseline.get(label)
        is_sampled = int(key[:8], 16) % SAMPLE == 0
        if known is not None and known["key"] == key and not is_sampled:
            found[label] = {**known, "compiled": False}
            return
        compiled = original(kernel, *args, grid=grid, warmup=True, **kwargs)
        row = _measure(compiled)
        found[label] = {
            **row,
            "claims": sorted(claims.get(kernel.fn.__name__, {})),
            "key": key,
            "triton": _triton(),
            "compiled": True,
        }

    original = JITFunction.run
    driver.set_active(NoDevice())
    JITFunction.run = compile_instead
    try:
        yield
    finally:
        JITFunction.run = original


def _show(value: Any) -> str:
    return getattr(value, "__name__", None) or str(value)


def _measure(compiled: Any) -> dict[str, Any]:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        text = _run_tool("cuobjdump", "--dump-resource-usage", file.name)
    usage = dict(re.findall(r"\b(REG|STACK|LOCAL):(\d+)", text))
    ptx, ttgir = compiled.asm["ptx"], compiled.asm["ttgir"]
    old, wgmma = len(re.findall(r"\bmma\.sync", ptx)), ptx.count("wgmma.mma_async")
    return {
        "registers": int(usage["REG"]),
        "stack": int(usage["STACK"]),
        "local": int(usage["LOCAL"]),
        "shared": compiled.metadata.shared,
        "warps": compiled.metadata.num_warps,
        "dots": len(re.findall(r"\btt\.dot\b|warp_group_dot |tc_gen5_mma|tt\.dot_scaled", ttgir)),
        "tensor_core": old + wgmma + ptx.count("tcgen05.mma"),
        "old_tensor_core": old,
        "serialized": wgmma > 0 and _is_serialized(ptx),
        "setmaxnreg": ptx.count("setmaxnreg"),
    }


def _is_serialized(ptx: str) -> bool:
    """Whether the assembler waits after every wgmma, which it only says in a warning (C7510 and those after it)."""
    with tempfile.NamedTemporaryFile(suffix=".ptx", mode="w") as file:
        file.write(ptx)
        file.flush()
        return "serialized" in _run_tool("ptxas", "--gpu-name", "sm_90a", "-o", "/dev/null", file.name)


def _run_tool(name: str, *arguments: str) -> str:
    """Return what one of the CUDA tools in Triton's wheel prints."""
    import triton

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name
    finished = subprocess.run([tool, *arguments], check=True, capture_output=True, text=True)
    return finished.stdout + finished.stderr


def _triton() -> str:
    import triton

    return str(triton.__version__)


def _baseline() -> dict[str, dict[str, Any]]:
    if not BASELINE.exists():
        return {}
    rows: dict[str, dict[str, Any]] = json.loads(BASELINE.read_text())
    return rows


if __name__ == "__main__":
    main()
