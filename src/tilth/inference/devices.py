"""Devices by their names, as verbs are given them."""

from __future__ import annotations

import torch

from tilth.errors import UserError, did_you_mean


def find_device(name: str) -> torch.device:
    """The device of that name. Raises UserError, with those that are there."""
    n_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    known = ["cpu", *(["cuda"] if n_gpus else []), *(f"cuda:{i}" for i in range(n_gpus))]
    if name not in known:
        raise UserError(f"there is no device `{name}` here", "--device", did_you_mean(name, known))
    return torch.device(name)
