"""One process or many: the same calls; with one they do nothing. When a process fails the others stop and say which."""

from __future__ import annotations

import contextlib
import datetime
import itertools
import os
import pickle
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from tilth.errors import BackendError, TilthError, TrainError

T = TypeVar("T")
BUCKET_ELEMENTS = 8_000_000  # gradients that are summed in one call
TIMEOUT = datetime.timedelta(minutes=10)  # how long a process may be silent
_FAREWELL_SECONDS = 5.0
# gloo's threads drop their last tensor at a time of their own, and need Python's lock for it: when that
# comes while the interpreter ends, the process aborts (seen with torch 2.13).
_SETTLE_SECONDS = 0.05
_runs = itertools.count()


@dataclass(frozen=True)
class World:
    """The processes that train together."""

    rank: int
    size: int
    device: torch.device
    store: Any = None
    messages: Iterator[int] = field(default_factory=itertools.count)

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    @property
    def place(self) -> dict[str, Any]:
        """What the rounding of sums depends on: a run resumed elsewhere keeps its batches, not its bits."""
        where = {"world_size": self.size, "n_threads": torch.get_num_threads(), "device": self.device.type}
        return {**where, "torch": torch.__version__}

    def add_up(self, values: list[float]) -> list[float]:
        """The sums of `values` over all processes, in double precision."""
        if self.size == 1:
            return values
        tensor = torch.tensor(values, dtype=torch.float64, device=self.device)
        with self._named_failure():
            dist.all_reduce(tensor)
        return tensor.tolist()

    def add_up_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Replace each gradient by its sum over all processes."""
        if self.size == 1:
            return
        bucket: list[Tensor] = []
        for parameter in parameters:
            if parameter.grad is None:
                # every process must bring the same tensors, used or not
                parameter.grad = torch.zeros_like(parameter)
            bucket.append(parameter.grad)
            if sum(grad.numel() for grad in bucket) >= BUCKET_ELEMENTS:
                self._add_up_bucket(bucket)
                bucket = []
        if bucket:
            self._add_up_bucket(bucket)

    def _add_up_bucket(self, grads: list[Tensor]) -> None:
        flat = torch.cat([grad.reshape(-1) for grad in grads])
        with self._named_failure():
            dist.all_reduce(flat)
        for grad, part in zip(grads, flat.split([grad.numel() for grad in grads]), strict=True):
            grad.copy_(part.view_as(grad))

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
            with self._named_failure():
                outcome = pickle.loads(self._wait_for(key))
        if outcome[1] is not None:
            raise outcome[1]
        return outcome[0]

    def _wait_for(self, key: str) -> bytes:
        end = time.monotonic() + TIMEOUT.total_seconds()
        while not self.store.check([key]):
            if self.store.check(["failed"]) or time.monotonic() > end:
                raise RuntimeError(f"the first process sent no {key}")
            time.sleep(0.01)
        return self.store.get(key)

    @contextlib.contextmanager
    def _named_failure(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            raise TrainError(
                f"training stopped: {self._who_failed()}",
                where=f"process {self.rank} of {self.size}",
                fix="Read the log of that process, then run the same command again: it continues from the last checkpoint.",
            ) from error

    def _who_failed(self) -> str:
        try:
            self.store.wait(["failed"], datetime.timedelta(seconds=2))
            return self.store.get("failed").decode()
        except Exception:  # the store died with the process that held it, or nobody left a word
            return "another process died or stopped answering"

    def leave_word(self, error: BaseException) -> None:
        """Tell the others why this process ends, and wait a moment until they have heard it."""
        first_line = str(error).splitlines()[0] if str(error) else ""
        message = f"process {self.rank} failed with {type(error).__name__}: {first_line}"
        with contextlib.suppress(Exception):
            if self.store.compare_set("failed", "", message).decode() != message:
                self.store.add("heard", 1)
                return
            # aborting the connections wakes the others out of their collectives
            dist.destroy_process_group()
            self._wait_until("heard", self.size - 1)

    def part(self) -> None:
        """Leave after a success; the first process may hold the store, so it goes last."""
        with contextlib.suppress(RuntimeError):
            self.store.add("left", 1)
            if self.is_first:
                self._wait_until("left", self.size)

    def _wait_until(self, counter: str, n_wanted: int) -> None:
        end = time.monotonic() + _FAREWELL_SECONDS
        while self.store.add(counter, 0) < n_wanted and time.monotonic() < end:
            time.sleep(0.01)


@contextlib.contextmanager
def join_world(device: str) -> Iterator[World]:
    """The processes that `torchrun` started together, or this one alone.

    `device` is "cpu", "cuda" or "auto" (a GPU if there is one). Raises BackendError for a GPU that is not there.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    where = _pick_device(device)
    if size == 1:
        yield World(0, 1, where)
        return
    store, rank, size = next(dist.rendezvous("env://", timeout=TIMEOUT))
    # A second run in the same processes must not read what the first left in the store.
    store = dist.PrefixStore(f"tilth/{next(_runs)}", store)
    dist.init_process_group("nccl" if where.type == "cuda" else "gloo", store=store, rank=rank, world_size=size, timeout=TIMEOUT)
    world = World(rank, size, where, store)
    try:
        yield world
        world.part()
    except BaseException as error:
        world.leave_word(error)
        raise
    finally:
        time.sleep(_SETTLE_SECONDS)
        if dist.is_initialized():
            dist.destroy_process_group()


def _pick_device(device: str) -> torch.device:
    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise BackendError("there is no GPU that torch can use", where="device='cuda'", fix="Use device='cpu' or 'auto'.")
    index = int(os.environ.get("LOCAL_RANK", "0"))
    torch.cuda.set_device(index)
    return torch.device("cuda", index)
