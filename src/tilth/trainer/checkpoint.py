"""What a checkpoint holds, and how a run is put back to it: checked first, in any number of shards.

The files are those of torch.distributed.checkpoint, which cut tensors as the processes held them and join them as
they are wanted; state.json holds their digests, the step, the random state and what the run must share.
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn

from tilth.errors import StaleError, TrainError
from tilth.trainer.config import FREE, differences
from tilth.trainer.world import World

log = logging.getLogger(__name__)
FORMAT = "tilth.checkpoint/2"
STATE_FILE = "state.json"
WEIGHTS = "model"
ONE_PROCESS = "torch.distributed is disabled"  # how DCP begins its warning for one process, which is no accident here


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose files are those that were written; `step` updates were done."""

    folder: Path
    step: int
    state: dict[str, Any]


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


def check_identity(checkpoint: Checkpoint | None, identity: dict[str, Any]) -> Checkpoint | None:
    """The checkpoint, if there is one. Raises StaleError, with each difference, unless it was made by the same run."""
    if checkpoint is None:
        return None
    # through JSON, as the saved one went: tuples become lists
    was, now = checkpoint.state["identity"], json.loads(json.dumps(identity))
    # a setting that no longer decides what is computed decided nothing for what was saved
    was["train"] = {name: value for name, value in was["train"].items() if name not in FREE}
    changed = differences(was, now)
    if changed:
        raise StaleError(
            "this run was begun with other inputs: " + "; ".join(changed),
            where=str(checkpoint.folder),
            fix="Use the inputs it was begun with, or another work folder.",
        )
    return checkpoint


def restore(
    checkpoint: Checkpoint, model: nn.Module, optimizer: torch.optim.Optimizer, world: World, place: dict[str, Any]
) -> None:
    """Put model, optimiser and random state back, in whatever shards they lie now; every process must call it.

    At the same `place` the bits are those that were saved; at another the log says how it differs.
    """
    reader = dcp.FileSystemReader(checkpoint.folder)
    try:
        saved = reader.read_metadata().state_dict_metadata
    except FileNotFoundError as error:
        fix = "Give a work folder that all processes can read."
        raise TrainError("this process cannot see the checkpoint of the first one", str(checkpoint.folder), fix) from error
    _make_moments(saved, model, optimizer, world)
    tensors = named_tensors(model, optimizer, world)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=ONE_PROCESS)
        # in place: into the parameters themselves and the optimiser's new tensors
        dcp.load(tensors, storage_reader=reader, process_group=world.checkpoint_group, no_dist=world.size == 1)
    _set_rng_state(checkpoint.state["rng"])
    changed = differences(checkpoint.state["place"], place)
    if changed:
        log.warning("resumed with %s: the same batches, but not the same bits", "; ".join(changed))


def named_tensors(model: nn.Module, optimizer: torch.optim.Optimizer, world: World) -> dict[str, Tensor]:
    """What a checkpoint holds, as "kind/parameter": the weights and each kind of the optimiser's state.

    A tensor of which other processes hold other slices carries its slice's number: "model/blocks.0.mixer.D@1".
    """
    tensors: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        tensors[f"{WEIGHTS}/{_place_name(name, parameter, world)}"] = parameter.detach()
        for kind, value in optimizer.state.get(parameter, {}).items():
            tensors[f"{kind}/{_place_name(name, parameter, world)}"] = value
    return tensors


def _place_name(name: str, parameter: Tensor, world: World) -> str:
    return f"{name}@{world.tensor_rank}" if getattr(parameter, "_is_slice", False) else name


def _make_moments(saved: dict[str, Any], model: nn.Module, optimizer: torch.optim.Optimizer, world: World) -> None:
    """Give the optimiser empty tensors of the kinds that were saved: a new one makes its own only at the first update."""
    parameters = {_place_name(name, parameter, world): parameter for name, parameter in model.named_parameters()}
    for key, entry in saved.items():
        kind, name = key.split("/", 1)
        if kind == WEIGHTS or name not in parameters:
            continue
        parameter, dtype = parameters[name], entry.properties.dtype
        if entry.size == parameter.shape:
            moment = torch.zeros_like(parameter.detach(), dtype=dtype)
        else:
            moment = torch.zeros(entry.size, dtype=dtype, device=parameter.device)
        optimizer.state[parameter][kind] = moment


def _verified(folder: Path) -> Checkpoint:
    state = json.loads((folder / STATE_FILE).read_text(encoding="utf-8"))
    if state["format"] != FORMAT:
        raise ValueError(f"its format is {state['format']!r}, not {FORMAT!r}")
    for name, digest in state["files"].items():
        with open(folder / name, "rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                raise ValueError(f"{name} is not the file that was written")
    return Checkpoint(folder, int(state["step"]), state)


def _set_rng_state(state: dict[str, str]) -> None:
    tensors = {name: torch.frombuffer(bytearray(base64.b64decode(text)), dtype=torch.uint8) for name, text in state.items()}
    torch.set_rng_state(tensors["cpu"])
    if "cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["cuda"])
