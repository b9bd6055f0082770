"""Compile every Triton kernel for sm_90 without a GPU and report, as JSON on stdout, what each takes.

Run by test_triton.py in a process of its own, because a compiler failure can abort the whole process.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from tilth.kernels.attention import triton_ as attention
from tilth.kernels.rms_norm import triton_ as rms_norm
from tilth.kernels.similarity_sketch import triton_ as sketch
from tilth.kernels.ssd_scan import triton_ as ssd_scan

_INT32_POINTERS = ("ids_ptr", "documents_ptr", "words_ptr")
_INT64_POINTERS = ("bounds_ptr", "values_ptr", "maps_ptr")
_FLOAT32_POINTERS = (
    "rstd_ptr", "dweight_ptr", "lse_ptr", "delta_ptr", "dt_ptr", "ddt_ptr", "A_ptr", "D_ptr", "added_ptr", "carry_ptr",
    "first_ptr", "entering_ptr", "leaving_ptr", "states_ptr", "dleaving_ptr", "dB_ptr", "dC_ptr", "dA_ptr", "dD_ptr",
)  # fmt: skip
_TRITON_TYPES = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}


def cases(dtype: torch.dtype) -> list[tuple[str, Any, dict[str, Any], dict[str, int]]]:
    """Return (name, kernel, constants, options) of each launch that the launchers make for `dtype`."""
    found: list[tuple[str, Any, dict[str, Any], dict[str, int]]] = []
    for size in (256, 4096):
        block, n_warps = rms_norm._configure(size)
        for kernel in (rms_norm._forward_kernel, rms_norm._backward_kernel):
            found.append((f"rms_norm D={size}", kernel, {"BLOCK": block}, {"num_warps": n_warps}))
    for n_bins in (1, 16, 192):
        constants, options = sketch.configure(n_bins)
        # The launcher makes a constant of a one.
        folded = {**constants, "n_bins": 1} if n_bins == 1 else constants
        found.append((f"similarity_sketch B={n_bins}", sketch._sketch_kernel, folded, options))
    for head_dim in (64, 128):
        found += _attention_cases(head_dim, dtype)
    for d_state in (64, 128):
        found += _ssd_cases(d_state, dtype)
    return found


def _attention_cases(head_dim: int, dtype: torch.dtype) -> list[tuple[str, Any, dict[str, Any], dict[str, int]]]:
    q = torch.empty(1, 1, 8, head_dim, dtype=dtype)
    k = torch.empty(1, 1, 2, head_dim, dtype=dtype)
    segments = torch.zeros(1, 1, dtype=torch.int32)
    dkv_config, dq_config = attention.backward_configs(head_dim, dtype)
    found = []
    for ids in (None, segments):
        for kernel, config in (
            (attention._forward_kernel, attention.forward_config(head_dim, dtype)),
            (attention._dkv_kernel, dkv_config),
            (attention._dq_kernel, dq_config),
        ):
            constants: dict[str, Any] = attention._constants(q, k, ids, True, config)
            options = {name: constants.pop(name) for name in ("num_warps", "num_stages")}
            found.append((f"attention D={head_dim} segments={ids is not None}", kernel, constants, options))
    return found


def _ssd_cases(d_state: int, dtype: torch.dtype) -> list[tuple[str, Any, dict[str, Any], dict[str, int]]]:
    x, B = torch.empty(1, 64, 8, 64, dtype=dtype), torch.empty(1, 64, 1, d_state, dtype=dtype)
    segments = torch.zeros(1, 64, dtype=torch.int32)
    name = f"ssd_scan N={d_state}"
    _, constants, options = ssd_scan._configure(x, B, segments, 64)
    found: list[tuple[str, Any, dict[str, Any], dict[str, int]]] = [
        (name, ssd_scan._added_kernel, {**constants, "TOWARDS_END": True}, options),
        (name, ssd_scan._output_kernel, {**constants, "HAS_D": True}, options),
        (
            name,
            ssd_scan._gradient_kernel,
            {**ssd_scan.gradient_constants(constants), "HAS_D": True},
            ssd_scan.GRADIENT_OPTIONS,
        ),
    ]
    pass_constants = {"HAS_FIRST": True, "REVERSE": False, "BLOCK": ssd_scan._STATE_BLOCK}
    found.append((name, ssd_scan._pass_kernel, pass_constants, {"num_warps": 2}))
    return found


def compile_case(kernel: Any, constants: dict[str, Any], options: dict[str, int], dtype: torch.dtype) -> dict[str, int]:
    """Return registers, stack and local bytes per thread, shared bytes and the number of wgmma instructions."""
    signature, attributes = {}, {}
    for i, name in enumerate(kernel.arg_names):
        if name in constants:
            signature[name] = "constexpr"
        elif name.endswith("_ptr"):
            signature[name] = _pointer(name, dtype)
            attributes[(i,)] = [["tt.divisibility", 16]]
        else:
            signature[name] = "fp32" if name in ("scale", "eps") else "i32"
            if name in ("head_dim", "d_state", "size", "state_size"):
                attributes[(i,)] = [["tt.divisibility", 16]]
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=attributes)
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    usage = _resource_usage(compiled.asm["cubin"])
    return {**usage, "shared": compiled.metadata.shared, "wgmma": compiled.asm["ptx"].count("wgmma.mma_async")}


def _pointer(name: str, dtype: torch.dtype) -> str:
    if name in _INT32_POINTERS:
        return "*i32"
    if name in _INT64_POINTERS:
        return "*i64"
    return "*fp32" if name in _FLOAT32_POINTERS else f"*{_TRITON_TYPES[dtype]}"


def _resource_usage(cubin: bytes) -> dict[str, int]:
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        text = subprocess.run([tool, "--dump-resource-usage", file.name], check=True, capture_output=True, text=True).stdout
    found = dict(re.findall(r"\b(REG|STACK|LOCAL):(\d+)", text))
    return {"registers": int(found["REG"]), "stack": int(found["STACK"]), "local": int(found["LOCAL"])}


def main(dtype_name: str) -> None:
    dtype = getattr(torch, dtype_name)
    rows = []
    for name, kernel, constants, options in cases(dtype):
        label = f"{name} {kernel.fn.__name__} {dtype_name}"
        rows.append({"kernel": label, **compile_case(kernel, constants, options, dtype)})
    sys.stdout.write(json.dumps(rows))


if __name__ == "__main__":
    main(sys.argv[1])
