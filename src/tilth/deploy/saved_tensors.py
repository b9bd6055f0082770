"""The tensors of a saved model, read one at a time as they are asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from safetensors import safe_open
from torch import Tensor

from tilth.models.weights import WEIGHTS_FILE


class SavedTensors(Mapping[str, Tensor]):
    """A model folder's state dict that is never in memory as a whole: each look-up opens the file and maps one tensor."""

    def __init__(self, folder: Path) -> None:
        self._path = Path(folder) / WEIGHTS_FILE
        with safe_open(self._path, framework="pt") as file:
            self._names: list[str] = sorted(file.keys())

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._names:
            raise KeyError(name)
        # closed at once: the pages go when the tensor goes
        with safe_open(self._path, framework="pt") as file:
            tensor: Tensor = file.get_tensor(name)
            return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
