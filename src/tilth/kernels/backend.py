"""Chooses which implementation of an operator runs, and refuses what cannot run."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from tilth.errors import BackendError, did_you_mean

BACKENDS = ("reference", "cpu", "triton", "gluon")
ENVIRONMENT_VARIABLE = "TILTH_KERNELS"
OLDEST_GPU = 80
"""Compute capability, times ten, below which no kernel is compiled or tested."""
GLUON_TRITON_VERSIONS = ("3.6", "3.7")
"""Gluon's interface changes between versions: other ones get the Triton kernels."""

_MODULES = {"reference": "reference", "cpu": "cpu", "triton": "triton_", "gluon": "gluon_sm90"}
_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)

_TRITON_VERSION = importlib.metadata.version("triton") if importlib.util.find_spec("triton") else None
_LOG = logging.getLogger("tilth.kernels")
# Plain globals and not ContextVars: torch.compile guards on globals but cannot trace ContextVar.get.
_override: str | None = None
_compiling_for: int | None = None
_computing_in: torch.dtype | None = None
_used: set[tuple[str, str]] = set()


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Run every operator called inside the block, and its gradient, on backend `name` (the whole process, not a thread).

    Raises BackendError for a name that does not exist; whether it can run is checked by each call.
    """
    global _override
    _check_name(name, "use_backend")
    previous, _override = _override, name
    try:
        yield
    finally:
        _override = previous


@contextmanager
def compiling_for(arch: int) -> Iterator[None]:
    """Take CPU tensors for those of a GPU of compute capability `arch` / 10, for compiling without one."""
    global _compiling_for
    previous, _compiling_for = _compiling_for, arch
    try:
        yield
    finally:
        _compiling_for = previous


def choose_backend(tensor: Tensor, asked: str | None = None, *, has_gluon: bool = False, gluon_is_default: bool = True) -> str:
    """Return the backend that an operator on `tensor` uses: `asked`, else use_backend, else TILTH_KERNELS, else by device.

    `has_gluon`: the call has a Gluon form, which a Hopper GPU then runs, but only on demand unless `gluon_is_default`. A
    function under torch.compile follows use_backend, but keeps the environment in which it was first traced.
    Raises BackendError, which is a ValueError, where the backend that was asked for cannot run on this tensor.
    """
    name, where = asked, "backend"
    if name is None:
        name, where = _override, "use_backend"
    if name is None:
        name, where = os.environ.get(ENVIRONMENT_VARIABLE), ENVIRONMENT_VARIABLE
    if name is None:
        name = _backend_of(tensor.device, has_gluon and gluon_is_default)
    else:
        _check_name(name, where)
    _check_can_run(name, tensor.device, tensor.dtype, has_gluon)
    return name


def direct(operator: Any) -> Any:
    """Return the function that a custom operator wraps where nothing but torch's dispatcher would be left out: in inference mode.

    When decoding a few rows, its 12 us a call are a tenth of a step. A function that torch.compile traces keeps the operator.
    """
    if torch.compiler.is_compiling() or not torch.is_inference_mode_enabled():
        return operator
    return operator._init_fn


def implementation(operator: str, backend: str) -> ModuleType:
    """Return the module that implements `operator` for `backend`; Triton is imported only here, when it is used.

    The first time that an operator runs on a backend this is said to the logger `tilth.kernels`.
    """
    _say_once(backend, operator)
    return importlib.import_module(f"tilth.kernels.{operator}.{_MODULES[backend]}")


def gpu_arch(device: torch.device) -> int:
    """Return 10 times the compute capability, 90 for sm_90; OLDEST_GPU for the interpreter, which runs on the CPU."""
    if _compiling_for is not None:
        return _compiling_for
    return _capability(device) if device.type == "cuda" else OLDEST_GPU


def compute_dtype(*tensors: Tensor) -> torch.dtype:
    """Return the dtype to accumulate in: float64 where any input is float64, float32 otherwise."""
    if _computing_in is not None:
        return _computing_in
    return torch.float64 if any(t.dtype == torch.float64 for t in tensors) else torch.float32


@contextmanager
def computing_in(dtype: torch.dtype) -> Iterator[None]:
    """Make references compute in `dtype` itself: how wrong a formula is in 16 bits is what a kernel's error is held to."""
    global _computing_in
    previous, _computing_in = _computing_in, dtype
    try:
        yield
    finally:
        _computing_in = previous


def check_float(name: str, tensor: Tensor) -> None:
    """Raise ValueError unless `tensor` is one of the floating types that the operators take."""
    if tensor.dtype not in _DTYPES:
        raise ValueError(f"{name} is {tensor.dtype}; expected float32, float16, bfloat16 or float64")


def check_shape(name: str, tensor: Tensor, shape: tuple[int, ...], letters: str) -> None:
    """Raise ValueError unless `tensor` has exactly `shape`; `letters` names its dimensions in the message."""
    if tensor.shape != shape:
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}; expected {shape} ({letters})")


def check_segments(segments_BT: Tensor, shape: tuple[int, int]) -> None:
    """Raise ValueError unless `segments_BT` is int32 of `shape` (batch, tokens)."""
    check_shape("segments_BT", segments_BT, shape, "B, T")
    if segments_BT.dtype != torch.int32:
        raise ValueError(f"segments_BT is {segments_BT.dtype}; expected int32")


def check_device(reference: Tensor, **others: Tensor | None) -> None:
    """Raise ValueError where a tensor lies on another device than `reference`."""
    for name, tensor in others.items():
        if tensor is not None and tensor.device != reference.device:
            raise ValueError(f"{name} is on {tensor.device}, but the first input is on {reference.device}")


def _check_name(name: str, where: str) -> None:
    if name not in BACKENDS:
        raise BackendError(f"`{name}` is not a kernel backend.", where=where, fix=did_you_mean(name, BACKENDS))


def _backend_of(device: torch.device, has_gluon: bool) -> str:
    if device.type == "cpu" and _compiling_for is None:
        return "cpu"
    return "gluon" if has_gluon and _gluon_problem(device) is None else "triton"


def _check_can_run(name: str, device: torch.device, dtype: torch.dtype, has_gluon: bool) -> None:
    if name == "reference" or (name == "cpu" and device.type == "cpu"):
        return  # before any text is made: this is a part of every call
    where = f"a {dtype} tensor on {device.type}"
    if name == "cpu":
        raise BackendError(
            f"The backend `cpu` cannot run on {device.type} tensors.",
            where=where,
            fix="Use the backend `triton` or `reference`, or move the data to the CPU.",
        )
    if name == "gluon":
        problem = _gluon_problem(device) if has_gluon else "This operator has no Gluon kernel for these inputs."
        if problem is not None:
            raise BackendError(problem, where=where, fix="Use the backend `triton`.")
    _check_triton_can_run(name, device, dtype, where)


def _check_triton_can_run(name: str, device: torch.device, dtype: torch.dtype, where: str) -> None:
    if dtype == torch.float64:
        raise BackendError("The Triton kernels have no float64 form.", where=where, fix="Use the backend `cpu` or `reference`.")
    if _TRITON_VERSION is None:
        raise BackendError("Triton is not installed.", where=where, fix="pip install triton")
    if _compiling_for is not None:
        return
    if device.type == "cuda":
        capability = _capability(device)
        if capability < OLDEST_GPU:
            raise BackendError(
                f"The GPU has compute capability {capability / 10:.1f}; the kernels need {OLDEST_GPU / 10:.1f} or later.",
                where=where,
                fix="Use the backend `reference`, or a GPU of the Ampere generation or later.",
            )
        return
    if device.type != "cpu" or os.environ.get("TRITON_INTERPRET") != "1":
        raise BackendError(
            f"The backend `{name}` cannot run on {device.type} tensors.",
            where=where,
            fix="Move the data to a CUDA device, or set TRITON_INTERPRET=1 before Python starts (slow; for tests).",
        )
    if dtype == torch.bfloat16:
        raise BackendError("Triton's interpreter computes bfloat16 wrongly.", where=where, fix="Use float32 or float16 there.")


def _gluon_problem(device: torch.device) -> str | None:
    """Return why the Gluon kernels cannot run, or None."""
    if device.type == "cpu" and _compiling_for is None:
        return "Gluon kernels have no interpreter: they run on a GPU of compute capability 9.0 only."
    arch = gpu_arch(device)
    if arch != 90:
        return f"The Gluon kernels are for compute capability 9.0, and the GPU has {arch / 10:.1f}."
    if _TRITON_VERSION is None or _TRITON_VERSION.rpartition(".")[0] not in GLUON_TRITON_VERSIONS:
        return f"The Gluon kernels are tested with Triton {', '.join(GLUON_TRITON_VERSIONS)}, and this is {_TRITON_VERSION}."
    return None


def _capability(device: torch.device) -> int:
    major, minor = torch.cuda.get_device_capability(device)
    return major * 10 + minor


def backends_used() -> list[str]:
    """Return the backends that have run an operator in this process, in alphabetical order."""
    return sorted({backend for backend, _ in _used})


def _say_once(backend: str, operator: str) -> None:
    if (backend, operator) in _used:
        return
    _used.add((backend, operator))
    if backend == "reference":
        _LOG.warning("%s runs on the backend `reference`, which is for comparison and slow", operator)
    else:
        _LOG.info("%s runs on the kernels' backend `%s`", operator, backend)
