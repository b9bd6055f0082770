"""A model on disk: model.safetensors, config.json and, if given, tokenizer.json; damage is found on reading."""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from tilth.errors import ContractError, NotFoundError, RecipeError
from tilth.models.config import ModelConfig
from tilth.models.decoder import Decoder, mark_parameters

WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
TOKENIZER_FILE = "tokenizer.json"
FORMAT = "tilth.model/1"
HEADER_KEY = "tilth"


def save_model(folder: Path, model: Decoder, tokenizer_json: bytes | None = None) -> str:
    """Write the model into folder (made if missing); returns its weights_digest.

    Each file is replaced atomically and config.json comes last, so a folder with a config is whole.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    digest = weights_digest(tensors)
    # one key only: safetensors writes several in an order that changes from call to call
    header = {HEADER_KEY: json.dumps({"format": FORMAT, "weights_digest": digest})}
    _replace(folder / WEIGHTS_FILE, lambda path: save_file(tensors, path, header))
    if tokenizer_json is not None:
        _replace(folder / TOKENIZER_FILE, lambda path: path.write_bytes(tokenizer_json))
    text = json.dumps(model.config.to_dict(), indent=2) + "\n"
    _replace(folder / CONFIG_FILE, lambda path: path.write_text(text, encoding="utf-8"))
    return digest


def load_model(folder: Path | str) -> Decoder:
    """The model of save_model's folder, on the CPU, values bit for bit as saved.

    Raises NotFoundError when a file is missing, ContractError when one is damaged or when the
    weights are not those that the config describes.
    """
    folder = Path(folder)
    config = load_config(folder)
    path = folder / WEIGHTS_FILE
    tensors, header = _read_tensors(path)
    _check_header(path, tensors, header)
    # built without memory: initialising would cost time and draw from the caller's random numbers
    with torch.device("meta"):
        model = Decoder(config)
    _check_tensors(path, tensors, model.state_dict())
    model.load_state_dict(tensors, assign=True)
    mark_parameters(model)
    return model


def load_config(folder: Path) -> ModelConfig:
    """The config of a model folder; raises NotFoundError or ContractError."""
    path = folder / CONFIG_FILE
    try:
        values = json.loads(_existing(path).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ContractError(f"the model's config is not JSON: {error}", where=str(path)) from error
    if not isinstance(values, dict):
        raise ContractError("the model's config is not a mapping of settings", where=str(path))
    if "model_type" in values or "architectures" in values:
        raise ContractError(
            "this is a checkpoint of HF transformers", str(path), "Make a model of it first: `tilth import-hf DIR OUT`."
        )
    try:
        return ModelConfig.from_dict(values)
    except RecipeError as error:
        raise ContractError(error.what, where=f"{path}, {error.where}", fix=error.fix) from error


def saved_dtype(folder: Path) -> torch.dtype:
    """The type of a saved model's embedding, of which one row is read. Raises NotFoundError or ContractError."""
    path = folder / WEIGHTS_FILE
    _existing(path)
    try:
        with safe_open(path, framework="pt") as file:
            row: Tensor = file.get_slice("embedding.weight")[:1]
            return row.dtype
    except SafetensorError as error:
        raise ContractError(f"the weights are truncated or damaged: {error}", str(path)) from error


def weights_digest(state_dict: Mapping[str, Tensor]) -> str:
    """sha256 (hex) over name, dtype, shape and little-endian bytes of each tensor, in the order of names."""
    digest = hashlib.sha256()
    for name in sorted(state_dict):
        tensor = state_dict[name].detach().cpu().contiguous()
        dtype = str(tensor.dtype).removeprefix("torch.")
        header = json.dumps([name, dtype, list(tensor.shape)]).encode()
        # the header's length keeps two different lists of tensors from reading as the same bytes
        digest.update(struct.pack("<Q", len(header)) + header)
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors, and what save_model said about them: nothing in a file that another program wrote."""
    _existing(path)
    try:
        with safe_open(path, framework="pt") as file:
            header: dict[str, str] = json.loads((file.metadata() or {}).get(HEADER_KEY, "{}"))
            return {name: file.get_tensor(name) for name in file.keys()}, header  # noqa: SIM118
    except (SafetensorError, json.JSONDecodeError) as error:
        fix = "copy the file again, or write it again from its run"
        raise ContractError(f"the weights are truncated or damaged: {error}", str(path), fix) from error


def _check_header(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> None:
    if header.get("format", FORMAT) != FORMAT:
        raise ContractError(f"the weights have the format {header['format']}, not {FORMAT}", str(path))
    promised = header.get("weights_digest")
    if promised is not None and promised != weights_digest(tensors):
        raise ContractError("the weights are damaged: their digest is not the one in their header", str(path))


def _check_tensors(path: Path, found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    if missing := sorted(expected.keys() - found.keys()):
        raise ContractError(f"the weights lack {_names(missing)}", str(path), _MISMATCH)
    if unknown := sorted(found.keys() - expected.keys()):
        raise ContractError(f"the config has no place for the weights {_names(unknown)}", str(path), _MISMATCH)
    for name, tensor in found.items():
        wanted = expected[name]
        if tensor.shape != wanted.shape:
            problem = f"{name} has shape {tuple(tensor.shape)}, the config asks for {tuple(wanted.shape)}"
            raise ContractError(problem, str(path), _MISMATCH)
        if not tensor.is_floating_point():
            raise ContractError(f"{name} has dtype {tensor.dtype}, which is no weight's", str(path))


_MISMATCH = f"use the {CONFIG_FILE} that was saved with these weights"


def _names(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise NotFoundError(f"there is no {path.name}, so this is not a saved model", where=str(path))
    return path


def _replace(path: Path, write: Callable[[Path], Any]) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
