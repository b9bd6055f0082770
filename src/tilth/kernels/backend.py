"""Chooses which implementation of an operator runs, and refuses what cannot run."""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import torch
from torch import Tensor

from tilth.errors import BackendError, did_you_mean

BACKENDS = ("reference", "cpu", "triton")
ENVIRONMENT_VARIABLE = "TILTH_KERNELS"

_MODULES = {"reference": "reference", "cpu": "cpu", "triton": "triton_"}
_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)

# A plain global and not a ContextVar: torch.compile guards on globals but cannot trace ContextVar.get.
_override: str | None = None


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


def choose_backend(tensor: Tensor) -> str:
    """Return the backend that an operator on `tensor` uses: use_backend, else TILTH_KERNELS, else by device.

    A function under torch.compile follows use_backend, but keeps the environment in which it was first traced.
    Raises BackendError where the backend that was asked for cannot run on this tensor.
    """
    name = _override if _override is not None else os.environ.get(ENVIRONMENT_VARIABLE)
    if name is None:
        name = "cpu" if tensor.device.type == "cpu" else "triton"
    else:
        _check_name(name, ENVIRONMENT_VARIABLE)
    _check_can_run(name, tensor.device.type, tensor.dtype)
    return name


def implementation(operator: str, backend: str) -> ModuleType:
    """Return the module that implements `operator` for `backend`; Triton is imported only here, when it is used."""
    return importlib.import_module(f"tilth.kernels.{operator}.{_MODULES[backend]}")


def compute_dtype(*tensors: Tensor) -> torch.dtype:
    """Return the dtype to accumulate in: float64 where any input is float64, float32 otherwise."""
    return torch.float64 if any(t.dtype == torch.float64 for t in tensors) else torch.float32


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


def _check_can_run(name: str, device: str, dtype: torch.dtype) -> None:
    if name == "cpu" and device != "cpu":
        raise BackendError(
            f"The backend `cpu` cannot run on {device} tensors.",
            where=f"a {dtype} tensor on {device}",
            fix="Use the backend `triton` or `reference`, or move the data to the CPU.",
        )
    if name == "triton":
        _check_triton_can_run(device, dtype)


def _check_triton_can_run(device: str, dtype: torch.dtype) -> None:
    where = f"a {dtype} tensor on {device}"
    if dtype == torch.float64:
        raise BackendError("The Triton kernels have no float64 form.", where=where, fix="Use the backend `cpu` or `reference`.")
    if importlib.util.find_spec("triton") is None:
        raise BackendError("Triton is not installed.", where=where, fix="pip install triton")
    if device == "cuda":
        return
    if device != "cpu" or os.environ.get("TRITON_INTERPRET") != "1":
        raise BackendError(
            f"The backend `triton` cannot run on {device} tensors.",
            where=where,
            fix="Move the data to a CUDA device, or set TRITON_INTERPRET=1 before Python starts (slow; for tests).",
        )
    if dtype == torch.bfloat16:
        raise BackendError("Triton's interpreter computes bfloat16 wrongly.", where=where, fix="Use float32 or float16 there.")
