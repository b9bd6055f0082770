"""The tensors of a checkpoint folder, read one at a time and checked: safetensors or pytorch_model.bin, whole or in shards."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from tilth.errors import ContractError, NotFoundError

_NAMES = ("model.safetensors", "pytorch_model.bin")
_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


class ForeignWeights:
    """names of all tensors; read(name) loads one. Raises NotFoundError and ContractError for what is missing or damaged."""

    def __init__(self, folder: Path) -> None:
        self._readers: dict[str, tuple[Path, Callable[[str], Tensor]]] = {}
        for path in _weight_files(folder):
            names, read = _open(path)
            self._readers |= dict.fromkeys(names, (path, read))

    @property
    def names(self) -> set[str]:
        """Of all tensors."""
        return set(self._readers)

    def read(self, name: str, like: Tensor | None = None) -> Tensor:
        """One tensor, with finite numbers in it; of like's shape, and of integers if those are."""
        path, read = self._readers[name]
        where = f"{path}, {name}"
        try:
            tensor = read(name)
        except (SafetensorError, RuntimeError, OSError) as error:
            raise ContractError(f"the weights are damaged: {error}", where, "copy the file again") from error
        are_weights = like is None or like.is_floating_point()
        if (tensor.dtype in _DTYPES) != are_weights:
            problem = f"the tensor is {tensor.dtype}: the checkpoint is quantised or holds no plain weights"
            raise ContractError(problem, where, "save it in bfloat16, float16 or float32 first")
        if like is not None and tensor.shape != like.shape:
            problem = f"the tensor has shape {tuple(tensor.shape)}, the config asks for {tuple(like.shape)}"
            raise ContractError(problem, where, "use the config.json that came with these weights")
        if not torch.isfinite(tensor).all():
            problem = "the tensor has values that are no finite numbers"
            raise ContractError(problem, where, "copy the checkpoint again, or use an earlier one")
        return tensor


def _weight_files(folder: Path) -> list[Path]:
    for name in _NAMES:
        if (folder / name).is_file():
            return [folder / name]
        index = folder / f"{name}.index.json"
        if index.is_file():
            return _shards(index)
    raise NotFoundError("there are no weights", str(folder), f"a checkpoint has {' or '.join(_NAMES)}, or their index and shards")


def _shards(index: Path) -> list[Path]:
    try:
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ContractError(f"the index of the shards is damaged: {error!r}", str(index), "copy the file again") from error
    for name in names:
        if Path(name).name != name or not (index.parent / name).is_file():
            raise NotFoundError(f"the shard `{name}` is missing", str(index), "copy all files of the checkpoint")
    return [index.parent / name for name in names]


def _open(path: Path) -> tuple[list[str], Callable[[str], Tensor]]:
    fix = "copy the file again"
    try:
        if path.suffix == ".safetensors":
            file = safe_open(path, framework="pt")
            return list(file.keys()), file.get_tensor
        # weights_only: a pickle could run any code; a zip archive can stay on disk until a tensor is asked for
        tensors: Mapping[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # of a damaged pickle, anything can come
        raise ContractError(f"the weights are truncated or damaged: {error}", str(path), fix) from error
    if not isinstance(tensors, Mapping) or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise ContractError("the file holds something else than named tensors", str(path), "save `model.state_dict()` alone")
    return list(tensors), tensors.__getitem__
