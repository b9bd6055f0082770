"""Checkpoints: published whole or not at all, checked before they are used, the last two kept."""

from __future__ import annotations

import base64
import contextlib
import errno
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tilth.artifacts.atomic import disk_errors, sync_folder
from tilth.errors import StaleError, TrainError
from tilth.trainer.config import differences

log = logging.getLogger(__name__)
FORMAT = "tilth.checkpoint/2"
N_KEPT = 2
_PARTIAL = ".partial-"
_FILES = ("model.safetensors", "optimizer.safetensors")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose files are those that were written; `step` updates were done."""

    folder: Path
    step: int
    state: dict[str, Any]


def save_checkpoint(
    work_dir: Path,
    step: int,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    identity: dict[str, Any],
    place: dict[str, Any],
    ledger: dict[str, Any],
) -> Path:
    """Publish checkpoints/step-<step> at once and drop all but the last two.

    `identity` is what a resumed run must share, `place` what its bits alone depend on, `ledger` what it must know of
    the steps before (see SpikeGuard).
    Raises StoreError when the disk is full: what was published before stays.
    """
    parent = work_dir / "checkpoints"
    final = parent / f"step-{step:08d}"
    partial = parent / f"{_PARTIAL}{final.name}"
    with disk_errors(final), _safetensors_errors():
        parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(partial, ignore_errors=True)
        try:
            partial.mkdir()
            save_file(_on_cpu(model.state_dict()), partial / _FILES[0], {"format": "pt"})
            save_file(_optimizer_tensors(model, optimizer), partial / _FILES[1], {"format": "pt"})
            digests = {name: _synced_digest(partial / name) for name in _FILES}
            state = {
                "format": FORMAT,
                "step": step,
                "identity": identity,
                "files": digests,
                "rng": _rng_state(),
                "place": place,
                "ledger": ledger,
            }
            (partial / "state.json").write_text(json.dumps(state, indent=1) + "\n", encoding="utf-8")
            _synced_digest(partial / "state.json")
            sync_folder(partial)
            _discard(final)  # a damaged one of the same step, from before this run was resumed
            os.rename(partial, final)
            sync_folder(parent)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    for old in published(work_dir)[:-N_KEPT]:
        _discard(old)
    return final


def published(work_dir: Path) -> list[Path]:
    """The folders of all checkpoints, oldest first, damaged ones included."""
    return sorted((work_dir / "checkpoints").glob("step-*"))


def latest_checkpoint(work_dir: Path) -> Checkpoint | None:
    """The newest checkpoint that is whole; damaged ones are named in the log and passed over.

    Raises TrainError when there are checkpoints but none is whole.
    """
    damaged = []
    for folder in reversed(published(work_dir)):
        try:
            return _verified(folder)
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.warning("checkpoint %s is damaged (%s): the one before it is used", folder, error)
            damaged.append(folder.name)
    if damaged:
        raise TrainError(
            f"no checkpoint is whole: {', '.join(damaged)}",
            where=str(work_dir / "checkpoints"),
            fix="Restore one from a copy, or delete the folder to begin again.",
        )
    return None


def check_identity(checkpoint: Checkpoint, identity: dict[str, Any]) -> None:
    """Raise StaleError, with each difference, unless the checkpoint was made by the same run."""
    # through JSON, as the saved one went: tuples become lists
    changed = differences(checkpoint.state["identity"], json.loads(json.dumps(identity)))
    if changed:
        raise StaleError(
            "this run was begun with other inputs: " + "; ".join(changed),
            where=str(checkpoint.folder),
            fix="Use the inputs it was begun with, or another work folder.",
        )


def restore(checkpoint: Checkpoint, model: nn.Module, optimizer: torch.optim.Optimizer, place: dict[str, Any]) -> None:
    """Put model, optimiser and random state back to the bit; says in the log when they cannot stay bit-equal."""
    try:
        weights, moments = (load_file(checkpoint.folder / name) for name in _FILES)
    except FileNotFoundError as error:
        fix = "Give a work folder that all processes can read."
        raise TrainError("this process cannot see the checkpoint of the first one", str(checkpoint.folder), fix) from error
    model.load_state_dict(weights)
    parameters = dict(model.named_parameters())
    for key, value in moments.items():
        kind, name = key.split("/", 1)
        optimizer.state[parameters[name]][kind] = value.to(parameters[name].device)
    _set_rng_state(checkpoint.state["rng"])
    changed = differences(checkpoint.state["place"], place)
    if changed:
        log.warning("resumed with %s: the same batches, but not the same bits", "; ".join(changed))


def _verified(folder: Path) -> Checkpoint:
    state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    if state["format"] != FORMAT:
        raise ValueError(f"its format is {state['format']!r}, not {FORMAT!r}")
    for name in _FILES:
        with open(folder / name, "rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != state["files"][name]:
                raise ValueError(f"{name} is not the file that was written")
    return Checkpoint(folder, int(state["step"]), state)


def _on_cpu(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    tensors = {}
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"{key}/{name}"] = value
    return _on_cpu(tensors)


def _rng_state() -> dict[str, str]:
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return {name: base64.b64encode(value.numpy().tobytes()).decode() for name, value in state.items()}


def _set_rng_state(state: dict[str, str]) -> None:
    tensors = {name: torch.frombuffer(bytearray(base64.b64decode(text)), dtype=torch.uint8) for name, text in state.items()}
    torch.set_rng_state(tensors["cpu"])
    if "cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["cuda"])


def _synced_digest(path: Path) -> str:
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()


def _discard(folder: Path) -> None:
    """Remove a checkpoint so that a crash on the way leaves no half of one under its name."""
    if folder.exists():
        doomed = folder.with_name(f"{_PARTIAL}old-{folder.name}")
        shutil.rmtree(doomed, ignore_errors=True)
        os.rename(folder, doomed)
        shutil.rmtree(doomed, ignore_errors=True)


@contextlib.contextmanager
def _safetensors_errors() -> Iterator[None]:
    """The library hides the errno of a failed write in its message."""
    try:
        yield
    except SafetensorError as error:
        for code in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EROFS, errno.EACCES):
            if f"os error {code})" in str(error):
                raise OSError(code, str(error)) from error
        raise
