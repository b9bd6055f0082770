"""Devices by their names, as verbs are given them, and the one that is current."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from tilth.errors import UserError, did_you_mean


def find_device(name: str) -> torch.device:
    """The device of that name. Raises UserError, with those that are there."""
    n_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    known = ["cpu", *(["cuda"] if n_gpus else []), *(f"cuda:{i}" for i in range(n_gpus))]
    if name not in known:
        raise UserError(f"there is no device `{name}` here", "--device", did_you_mean(name, known))
    return torch.device(name)


def current_device(device: torch.device) -> AbstractContextManager[object]:
    """While it lasts, a GPU is the current one of this thread: Triton launches there, wherever the tensors of a kernel lie."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()
