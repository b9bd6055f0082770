"""Writing checkpoints beside the training: the loop waits for a copy in memory, a thread brings it to the disk."""

from __future__ import annotations

import base64
import copy
import hashlib
import json
import logging
import os
import shutil
import threading
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.tensor import DTensor

from tilth.artifacts.atomic import disk_errors, sync_folder
from tilth.trainer.checkpoint import FORMAT, ONE_PROCESS, STATE_FILE, named_tensors, published
from tilth.trainer.parallel import local
from tilth.trainer.world import World

log = logging.getLogger(__name__)
N_KEPT = 2
_PARTIAL = ".partial-"
_LAST_SECONDS = 30.0


class Checkpointer:
    """Publishes checkpoints/step-<step> of a run, each whole or not at all, and keeps the last two; use as a context.

    `identity` is what a resumed run must share, `place` what its bits alone depend on. One checkpoint is written at
    a time: the next save waits for the one before. An error of the thread (StoreError when the disk is full: what was
    published before stays) is raised by the next call of `check`, `save` or `wait`, or at the end of the block.
    """

    def __init__(
        self,
        work_dir: Path,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        world: World,
        identity: dict[str, Any],
        place: dict[str, Any],
    ) -> None:
        self.folder = work_dir / "checkpoints"
        self.work_dir, self.model, self.optimizer, self.world = work_dir, model, optimizer, world
        self.header = {"format": FORMAT, "identity": identity, "place": place}
        self._copy: dict[str, Tensor] = {}
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        # for good: to set it back is not safe beside a thread
        warnings.filterwarnings("ignore", message=ONE_PROCESS)

    def __enter__(self) -> Checkpointer:
        if self.world.is_first:
            # what a process that was killed left half written, or half removed
            for partial in self.folder.glob(f"{_PARTIAL}*"):
                shutil.rmtree(partial, ignore_errors=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if kind is None:
            self.wait()
        elif self._thread:
            # the block has failed, maybe because of this thread: what it writes may still be the last good checkpoint
            self._thread.join(_LAST_SECONDS)

    def save(self, step: int, ledger: dict[str, Any], syncs: Sequence[Callable[[], None]] = ()) -> None:
        """Copy the state after `step` updates and return; the rest is done in a thread.

        `ledger` is what a resumed run must know of the steps before (see SpikeGuard). `syncs` bring to the disk what a
        checkpoint promises besides itself; they are called in every process before anything is published.
        """
        self.wait()
        self._take_copy()
        state = {**self.header, "step": step, "rng": _rng_state(), "ledger": copy.deepcopy(ledger)}
        self._thread = threading.Thread(target=self._run, args=(state, syncs), name="checkpoint", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise the error of a checkpoint that could not be written."""
        if self._error:
            error, self._error = self._error, None
            raise error

    def wait(self) -> None:
        """Return when nothing is being written any more; raises as `check` does."""
        if self._thread:
            self._thread.join()
            self._thread = None
        self.check()

    def _take_copy(self) -> None:
        """Into the same memory each time: new pages would cost many times the copy itself."""
        on_gpu = self.world.device.type == "cuda"
        for name, tensor in named_tensors(self.model, self.optimizer, self.world).items():
            held = local(tensor)
            if name not in self._copy:
                empty = torch.empty(held.shape, dtype=held.dtype, pin_memory=on_gpu)
                self._copy[name] = self._laid_out_as(tensor, empty)
            local(self._copy[name]).copy_(held, non_blocking=True)
        if on_gpu:
            torch.cuda.synchronize()

    def _laid_out_as(self, tensor: Tensor, held: Tensor) -> Tensor:
        if not isinstance(tensor, DTensor):
            return held
        assert self.world.cpu_mesh is not None
        mesh = self.world.cpu_mesh["data"]
        shape, stride = tensor.shape, tensor.stride()
        return DTensor.from_local(held, mesh, tensor.placements, run_check=False, shape=shape, stride=stride)

    def _run(self, state: dict[str, Any], syncs: Sequence[Callable[[], None]]) -> None:
        final = self.folder / f"step-{state['step']:08d}"
        partial = self.folder / f"{_PARTIAL}{final.name}"
        is_first = self.world.is_first
        try:
            with disk_errors(final):
                if is_first:
                    shutil.rmtree(partial, ignore_errors=True)
                    # another process may have made it already; it writes nothing before the first has planned with it
                    partial.mkdir(parents=True, exist_ok=True)
                try:
                    for sync in syncs:
                        sync()
                    digests = self._write(partial)
                    if is_first:
                        _publish(partial, final, {**state, "files": digests})
                finally:
                    if is_first:
                        shutil.rmtree(partial, ignore_errors=True)
            if is_first:
                for old in published(self.work_dir)[:-N_KEPT]:
                    _discard(old)
        except BaseException as error:
            self._error = error

    def _write(self, folder: Path) -> dict[str, str]:
        """Write the part of this process; returns the digest of every process's files by their names."""
        world = self.world
        try:
            dcp.save(self._copy, storage_writer=_Writer(folder), process_group=world.checkpoint_group, no_dist=world.size == 1)
        except CheckpointException as failed:
            # it is no Exception, and the same in every process: what counts is the first of those it holds
            raise next(iter(failed.failures.values()))[0] from failed
        names = [path.name for path in folder.glob(f"__{world.rank}_*")] + [".metadata"] * world.is_first
        digests = {name: _digest(folder / name) for name in names}
        if world.size == 1:
            return digests
        parts: list[Any] = [None] * world.size
        dist.all_gather_object(parts, digests, group=world.checkpoint_group)
        return {name: digest for part in parts for name, digest in part.items()}


class _Writer(dcp.FileSystemWriter):
    """Raises the error of the disk itself, which torch.save replaces by one of its own."""

    def write_data(self, *arguments: Any) -> Any:
        try:
            return super().write_data(*arguments)
        except RuntimeError as error:
            cause = error.__context__
            raise (cause if isinstance(cause, OSError) else error) from None


def _publish(partial: Path, final: Path, state: dict[str, Any]) -> None:
    with open(partial / STATE_FILE, "w", encoding="utf-8") as file:
        file.write(json.dumps(state, indent=1) + "\n")
        file.flush()
        os.fsync(file.fileno())
    sync_folder(partial)
    _discard(final)  # a damaged one of the same step, from before this run was resumed
    os.rename(partial, final)
    sync_folder(final.parent)


def _discard(folder: Path) -> None:
    """Remove a checkpoint so that a crash on the way leaves no half of one under its name."""
    if folder.exists():
        doomed = folder.with_name(f"{_PARTIAL}old-{folder.name}")
        shutil.rmtree(doomed, ignore_errors=True)
        os.rename(folder, doomed)
        shutil.rmtree(doomed, ignore_errors=True)


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _rng_state() -> dict[str, str]:
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return {name: base64.b64encode(value.numpy().tobytes()).decode() for name, value in state.items()}
