"""Where sketches are made: by the data rooms' own code on the CPU, or by `tilth.kernels.similarity_sketch` on a GPU."""

from __future__ import annotations

import importlib.util
import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tilth.errors import BackendError, did_you_mean

if TYPE_CHECKING:
    from tilth.dedup.minhash.sketch import ComputeSketches, Words
    from tilth.dedup.texts.mixing import Hashes
    from tilth.dedup.texts.tokens import Ints

ENVIRONMENT_VARIABLE = "TILTH_DEVICE"
DEVICES = ("auto", "cpu", "cuda")


def sketches_on_device() -> ComputeSketches | None:
    """What TILTH_DEVICE asks for; None stands for the CPU's own code. The sketches are the same bits everywhere.

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
    return partial(sketches_by_kernel, device="cuda") if can_use else None


def sketches_by_kernel(values: Hashes, ends: Ints, maps: Hashes, n_bins: int, device: str) -> Words:
    """Texts x bins, as `tilth.dedup.minhash.sketch.compute_sketches` has them, by `similarity_sketch` on `device`."""
    import torch

    from tilth.kernels.similarity_sketch import similarity_sketch

    arrays = (values, ends.astype(np.int64, copy=False), maps)
    values_N, bounds, rounds = (torch.from_numpy(np.ascontiguousarray(array)).to(device) for array in arrays)
    found: Words = similarity_sketch(values_N, bounds, rounds, n_bins).cpu().numpy()
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
