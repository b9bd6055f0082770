"""What the seconds of an evaluation are those of: weights of a dtype, on a device, with a number of threads."""

from __future__ import annotations

import os
import platform
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tilth.artifacts import Named
from tilth.pipeline.evaluation import Evaluation


@dataclass(frozen=True)
class Conditions:
    """dtype: that of the embedding, and of nearly all weights; device: the machine's name for it."""

    dtype: str
    device: str
    n_threads: int

    @classmethod
    def of(cls, asked: Evaluation, folder: Path) -> Conditions:
        """Those under which the model in `folder` will be evaluated here. Raises what `saved_dtype` raises."""
        import torch

        from tilth.models.weights import saved_dtype

        dtype = asked.dtype or str(saved_dtype(folder)).removeprefix("torch.")
        return cls(dtype, _device_name(asked.device), asked.n_threads or torch.get_num_threads())

    def told(self) -> dict[str, Any]:
        """As an evaluation's name tells them."""
        return asdict(self)

    def unlike(self, other: Named) -> str:
        """In words, under which other conditions the evaluation `other` was drawn; empty where they are the same."""
        pairs = {name: (other.meta.get(name, "not known"), own) for name, own in self.told().items()}
        return ", ".join(f"{name} {theirs} there and {own} here" for name, (theirs, own) in pairs.items() if theirs != own)


def _device_name(device: str) -> str:
    import torch

    if device == "cpu" or not torch.cuda.is_available():
        return f"{device} {platform.machine()} x{os.cpu_count()}"
    return torch.cuda.get_device_name(device)
