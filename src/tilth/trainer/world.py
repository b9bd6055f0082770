"""One process or many: the same calls; with one they do nothing. When a process fails the others stop and say which."""

from __future__ import annotations

import contextlib
import datetime
import itertools
import os
import pickle
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from tilth.artifacts.atomic import disk_errors, is_locked, locked
from tilth.errors import BackendError, RecipeError, TilthError, TrainError
from tilth.trainer.heartbeat import Heartbeat

T = TypeVar("T")
TIMEOUT = datetime.timedelta(minutes=10)  # how long a process that lives may keep the others waiting
_FAREWELL_SECONDS = 5.0
# gloo's threads drop their last tensor at a time of their own, and need Python's lock for it: when that
# comes while the interpreter ends, the process aborts (seen with torch 2.13).
_SETTLE_SECONDS = 0.05
_runs = itertools.count()


@dataclass(frozen=True)
class World:
    """The processes that train together: `data_size` groups, each of `tensor_size` that share the slices of one model."""

    rank: int
    size: int
    device: torch.device
    tensor_size: int = 1
    mesh: DeviceMesh | None = None  # ("data", "tensor") on the device; None for one process
    cpu_mesh: DeviceMesh | None = None  # the same processes, for tensors in the memory of the host
    checkpoint_group: Any = None  # of its own, so that a thread may talk while the loop does
    store: Any = None
    heartbeat: Heartbeat | None = None
    messages: Iterator[int] = field(default_factory=itertools.count)

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    @property
    def data_size(self) -> int:
        """How many processes share a batch."""
        return self.size // self.tensor_size

    @property
    def data_rank(self) -> int:
        return self.rank // self.tensor_size

    @property
    def tensor_rank(self) -> int:
        """Which slice of the model this process holds."""
        return self.rank % self.tensor_size

    @property
    def place(self) -> dict[str, Any]:
        """What the rounding of sums depends on: a run resumed elsewhere keeps its batches, not its bits."""
        where = {"world_size": self.size, "n_threads": torch.get_num_threads(), "device": self.device.type}
        return {**where, "torch": torch.__version__}

    def group(self, name: str) -> Any:
        """The process group of this process along "data" or "tensor"."""
        assert self.mesh is not None
        return self.mesh[name].get_group()

    def add_up(self, values: list[float]) -> list[float]:
        """The sums of `values` over all processes, in double precision."""
        if self.size == 1:
            return values
        tensor = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(tensor)
        return tensor.tolist()

    def from_first(self, make: Callable[[], T]) -> T:
        """What `make` returns in the first process; an error of Tilth that it raises there is raised in all."""
        if self.size == 1:
            return make()
        key = f"first/{next(self.messages)}"
        # Through the store, so that no collective comes right before the end: see `_SETTLE_SECONDS`.
        outcome: tuple[Any, TilthError | None]
        if self.is_first:
            try:
                outcome = make(), None
            except TilthError as error:
                outcome = None, error
            self.store.set(key, pickle.dumps(outcome))
        else:
            outcome = pickle.loads(self._wait_for(key))
        if outcome[1] is not None:
            raise outcome[1]
        return outcome[0]

    def _wait_for(self, key: str) -> bytes:
        end = time.monotonic() + TIMEOUT.total_seconds()
        while not self.store.check([key]):
            if self.store.check(["failed"]) or time.monotonic() > end:
                raise _PeerLostError(f"the first process sent no {key}")
            time.sleep(0.01)
        return self.store.get(key)

    def explained(self, error: BaseException) -> BaseException:
        """For the error of a collective a TrainError that names the process at fault; any other error as it is."""
        if self.heartbeat is None or not _is_of_collective(error):
            return error
        return TrainError(
            f"training stopped: {self.heartbeat.who_failed()}",
            where=f"process {self.rank} of {self.size}",
            fix="Read the log of that process, then run the same command again: it continues from the last checkpoint.",
        )

    def leave_word(self, error: BaseException) -> None:
        """Tell the others why this process ends, and wait a moment until they have heard it."""
        first_line = str(error).splitlines()[0] if str(error) else ""
        message = f"process {self.rank} failed with {type(error).__name__}: {first_line}"
        with contextlib.suppress(Exception):
            if self.store.compare_set("failed", "", message).decode() != message:
                return
            others = [f"heard/{rank}" for rank in range(self.size) if rank != self.rank]
            _wait_until(lambda: self.store.check(others))

    def part(self) -> None:
        """Leave after a success; the first process may hold the store, so it goes last."""
        with contextlib.suppress(RuntimeError):
            self.store.add("left", 1)
            if self.is_first:
                _wait_until(lambda: self.store.add("left", 0) == self.size)


def _wait_until(is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + _FAREWELL_SECONDS
    while not is_so() and time.monotonic() < end:
        time.sleep(0.01)


class _PeerLostError(RuntimeError):
    """A process that was waited for has failed or keeps silent."""


def _is_of_collective(error: BaseException) -> bool:
    # gloo's errors have no class of their own, but begin with the path of a file of gloo
    return isinstance(error, dist.DistError | _PeerLostError) or (isinstance(error, RuntimeError) and "gloo" in str(error))


@contextlib.contextmanager
def join_world(device: str, tensor_parallel: int = 1) -> Iterator[World]:
    """The processes that `torchrun` started together, or this one alone; each `tensor_parallel` of them hold one model.

    `device` is "cpu", "cuda" or "auto" (a GPU if there is one). Raises BackendError for a GPU that is not there,
    RecipeError when the processes cannot be grouped.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    where = pick_device(device)
    if size % tensor_parallel:
        fix = f"Start a multiple of {tensor_parallel} processes with torchrun, or lower tensor_parallel."
        raise RecipeError(f"{size} processes cannot hold models of {tensor_parallel} slices", "TrainConfig.tensor_parallel", fix)
    if size == 1:
        yield World(0, 1, where)
        return
    world = _meet(where, tensor_parallel)
    assert world.heartbeat is not None
    try:
        yield world
        world.heartbeat.end()
        world.part()
    except BaseException as error:
        explained = world.explained(error)
        world.heartbeat.end()
        world.leave_word(explained)
        raise explained from (None if explained is error else error)
    finally:
        time.sleep(_SETTLE_SECONDS)
        if dist.is_initialized():
            dist.destroy_process_group()


@contextlib.contextmanager
def sole_use(work_dir: Path, world: World) -> Iterator[None]:
    """Keep a second run out of `work_dir`: both would cut back the record of the other."""
    if not world.is_first:
        yield
        return
    with disk_errors(work_dir):
        work_dir.mkdir(parents=True, exist_ok=True)
    lock = work_dir / ".lock"
    if is_locked(lock):
        raise TrainError(
            "another process is training here",
            where=str(work_dir),
            fix="Wait until it has ended, and run the same command again: what it made is not made twice.",
        )
    with locked(lock):
        yield


def _meet(device: torch.device, tensor_size: int) -> World:
    store, rank, size = next(dist.rendezvous("env://", timeout=TIMEOUT))
    # A second run in the same processes must not read what the first left in the store.
    store = dist.PrefixStore(f"tilth/{next(_runs)}", store)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=TIMEOUT)
    heartbeat = Heartbeat(store, rank, size)
    heartbeat.start()
    shape, names = (size // tensor_size, tensor_size), ("data", "tensor")
    mesh = init_device_mesh(device.type, shape, mesh_dim_names=names)
    cpu_mesh = mesh if device.type == "cpu" else init_device_mesh("cpu", shape, mesh_dim_names=names)
    group = dist.new_group(backend="gloo", timeout=TIMEOUT)
    return World(rank, size, device, tensor_size, mesh, cpu_mesh, group, store, heartbeat)


def pick_device(device: str) -> torch.device:
    """What the word stands for in this process. Raises BackendError for a GPU that is not there."""
    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise BackendError("there is no GPU that torch can use", where="device='cuda'", fix="Use device='cpu' or 'auto'.")
    index = int(os.environ.get("LOCAL_RANK", "0"))
    torch.cuda.set_device(index)
    return torch.device("cuda", index)
