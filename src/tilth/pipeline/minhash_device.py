"""Where the minima of MinHash are computed: by the data rooms' own kernel on the CPU, or by `tilth.kernels.minhash` on a GPU."""

from __future__ import annotations

import importlib.util
import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tilth.errors import BackendError, did_you_mean

if TYPE_CHECKING:
    from tilth.dedup.minhash.minima import ComputeMinima, Words
    from tilth.dedup.texts.tokens import Ints

ENVIRONMENT_VARIABLE = "TILTH_DEVICE"
DEVICES = ("auto", "cpu", "cuda")


def minima_on_device() -> ComputeMinima | None:
    """What TILTH_DEVICE asks for; None stands for the CPU's own kernel. The minima are the same bits everywhere.

    `auto`, the default, takes a GPU where torch and Triton can use one; a process that has none at hand never imports torch.
    Raises BackendError for a device that is not there, or no device.
    """
    wanted = os.environ.get(ENVIRONMENT_VARIABLE, "auto")
    if wanted not in DEVICES:
        raise BackendError(f"`{wanted}` is no device", ENVIRONMENT_VARIABLE, did_you_mean(wanted, DEVICES))
    if wanted == "cpu" or (wanted == "auto" and not _may_have_gpu()):
        return None
    can_use = importlib.util.find_spec("torch") is not None and _torch_has_gpu()
    if not can_use and wanted == "cuda":
        where = f"{ENVIRONMENT_VARIABLE}=cuda"
        raise BackendError("there is no GPU that torch can use", where, "Say `auto` or `cpu`, or install the extra `train`.")
    return partial(minima_by_kernel, device="cuda") if can_use else None


def minima_by_kernel(values: Words, ends: Ints, factors: Words, offsets: Words, device: str) -> Words:
    """Texts x permutations, as `tilth.dedup.minhash.minima.compute_minima` has them, by the operator `minhash` on `device`."""
    import torch

    from tilth.kernels.minhash import minhash

    arrays = (values, ends.astype(np.int64, copy=False), factors, offsets)
    found: Words = minhash(*(torch.from_numpy(np.ascontiguousarray(array)).to(device) for array in arrays)).cpu().numpy()
    return found


def _may_have_gpu() -> bool:
    """Whether a driver has put a GPU among the devices (`dxg` is that of WSL) and what could use it is installed."""
    if os.environ.get("CUDA_VISIBLE_DEVICES", "all") in ("", "-1"):
        return False
    has_device = any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/dxg").exists()
    return has_device and all(importlib.util.find_spec(name) is not None for name in ("torch", "triton"))


def _torch_has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()
