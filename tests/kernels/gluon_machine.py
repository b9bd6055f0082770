"""The machine that simulated Gluon kernels run on: partitions that take turns at random, barriers, and races found by clocks.

One block of a kernel is a few partitions (each a warp or a warpgroup). They are threads of which one runs at a time;
every operation on shared memory is a place where another may go on, drawn by chance from a seed. Copies by the TMA and
products of a warpgroup are actions of their own, which happen at any time from their issue to the moment at which
something that waits for them is let through.

What may not happen is found by vector clocks, whatever the schedule: every access to a place of shared memory must be
ordered, by barriers, after the accesses that it conflicts with. A product reads its operands until it is waited for,
a copy writes from its issue on, and whoever waits for a barrier learns what was done before the arrivals at it.
"""

from __future__ import annotations

import random
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


class ProtocolError(Exception):
    """The kernel did what would race, hang, or read what is not there."""


class _Stopped(BaseException):
    """Ends the thread of a partition when another one failed."""


Clock = dict[str, int]


def join(clock: Clock, other: Clock) -> None:
    for name, time in other.items():
        clock[name] = max(clock.get(name, 0), time)


@dataclass(eq=False)
class Action:
    """Something asynchronous: `do` happens once, at any time; `retire` when its issuer has waited for it."""

    name: str
    do: Callable[[], None]
    places: list[Place] = field(default_factory=list)  # that it reads until it is retired
    after: Action | None = None  # the products of a warpgroup happen in their order
    is_done: bool = False


@dataclass(eq=False)
class Place:
    """A part of shared memory that is filled and read as one: what was last done to it, and when."""

    name: str
    written: tuple[str, int] | None = None
    reads: Clock = field(default_factory=dict)
    readers: list[Action] = field(default_factory=list)
    unfenced: Partition | None = None  # who stored to it without a fence, so that the TMA and products may not see it

    def check_write(self, clock: Clock, who: str) -> None:
        for reader in self.readers:
            raise ProtocolError(f"{who} overwrites {self.name}, which {reader.name} still reads")
        for name, time in self.reads.items():
            if clock.get(name, 0) < time:
                raise ProtocolError(f"{who} overwrites {self.name}, and is not ordered after its reading by {name}")
        if self.written is not None and clock.get(self.written[0], 0) < self.written[1]:
            raise ProtocolError(f"{who} overwrites {self.name}, and is not ordered after its writing by {self.written[0]}")

    def check_read(self, clock: Clock, who: str, is_async: bool) -> None:
        if self.written is None:
            raise ProtocolError(f"{who} reads {self.name}, which nobody has written")
        if clock.get(self.written[0], 0) < self.written[1]:
            raise ProtocolError(f"{who} reads {self.name}, and is not ordered after its writing by {self.written[0]}")
        if is_async and self.unfenced is not None:
            raise ProtocolError(f"{who} reads {self.name}, whose stores by {self.unfenced.name} have no fence_async_shared")


@dataclass(eq=False)
class Barrier:
    """An mbarrier: `n_ended` phases have ended; a phase ends when all arrivals and all announced bytes have come."""

    name: str
    arrivals: int = 0
    missing: int = 0
    n_bytes: int = 0
    n_ended: int = 0
    clock: Clock = field(default_factory=dict)  # what those know who arrived, in this phase and before
    ended: Clock = field(default_factory=dict)  # what those learn who waited for the last phase
    seen: dict[str, int] = field(default_factory=dict)  # how many phases each partition has waited for

    def arrive(self, clock: Clock, count: int) -> None:
        self.check()
        if count > self.missing:
            raise ProtocolError(f"{count} arrivals at {self.name}, of which the phase misses {self.missing}")
        join(self.clock, clock)
        self.missing -= count
        self.end_if_complete()

    def end_if_complete(self) -> None:
        if self.missing == 0 and self.n_bytes == 0:
            self.n_ended += 1
            self.missing = self.arrivals
            self.ended = dict(self.clock)

    def is_open(self, partition: str, parity: int) -> bool:
        """Whether the last phase that ended has this parity; nobody may fall a phase behind, for the parity is then of another."""
        self.check()
        seen = self.seen.get(partition, 0)
        wanted = seen if (seen - 1) % 2 == parity else seen + 1
        if self.n_ended > wanted:
            raise ProtocolError(f"{partition} waits for phase {wanted} of {self.name}, of which {self.n_ended} have ended")
        return self.n_ended == wanted

    def check(self) -> None:
        if not self.arrivals:
            raise ProtocolError(f"{self.name} is used before its init")


class Partition:
    """A thread that runs only when it is told to, what it knows of the others, and what it has not yet waited for."""

    def __init__(self, machine: Machine, name: str, run: Callable[[], Any], clock: Clock) -> None:
        self.machine, self.name, self.run = machine, name, run
        self.clock: Clock = {**clock, name: 1}
        self.products: deque[Action] = deque()
        self.stores: deque[Action] = deque()
        self.is_open: Callable[[], bool] = lambda: True
        self.waits_for = "nothing"
        self.result: Any = None
        self.error: BaseException | None = None
        self.is_finished = False
        self._go = threading.Semaphore(0)
        self._thread = threading.Thread(target=self._main, daemon=True)
        self._thread.start()

    def _main(self) -> None:
        self._go.acquire()
        try:
            if not self.machine.is_stopped:
                self.result = self.run()
                self._check_nothing_left()
        except _Stopped:
            pass
        except BaseException as error:
            self.error = error
        self.is_finished = True
        self.machine.turn.release()

    def _check_nothing_left(self) -> None:
        for action in (*self.products, *self.stores):
            raise ProtocolError(f"{self.name} ends without waiting for {action.name}")

    def resume(self) -> None:
        self._go.release()
        self.machine.turn.acquire()

    def pause(self, is_open: Callable[[], bool] = lambda: True, waits_for: str = "nothing") -> None:
        """Let others run, and go on when `is_open`."""
        self.is_open, self.waits_for = is_open, waits_for
        self.machine.turn.release()
        self._go.acquire()
        if self.machine.is_stopped:
            raise _Stopped
        self.clock[self.name] += 1

    def issue(self, action: Action, queue: deque[Action]) -> None:
        queue.append(action)
        self.machine.actions.append(action)
        for place in action.places:
            place.readers.append(action)

    def wait_for(self, queue: deque[Action], n_left: int, kind: str) -> None:
        """Wait until all but the last `n_left` of the queue have happened; their operands are then read."""
        awaited = [queue.popleft() for _ in range(max(len(queue) - n_left, 0))]
        self.pause(lambda: all(action.is_done for action in awaited), kind)
        for action in awaited:
            for place in action.places:
                place.readers.remove(action)
                place.reads[self.name] = self.clock[self.name]


class Machine:
    """Runs one block: draws what happens next, until all has happened or nothing can."""

    def __init__(self, seed: str) -> None:
        self.chance = random.Random(seed)
        self.turn = threading.Semaphore(0)
        self.partitions: list[Partition] = []
        self.actions: list[Action] = []
        self.places: list[Place] = []
        self.barriers: list[Barrier] = []
        self.is_stopped = False
        self.n_copies = 0
        self._weights: dict[str, float] = {}
        self.current: Partition

    def run(self, kernel: Callable[[], Any]) -> None:
        """Raise what a partition raised, or ProtocolError where none can go on or something is left over."""
        self.partitions.append(Partition(self, "main", kernel, {}))
        try:
            while not all(partition.is_finished for partition in self.partitions):
                self._step()
            for action in self.actions:
                raise ProtocolError(f"{action.name} is under way when the program ends")
            for barrier in self.barriers:
                if barrier.n_ended > max(barrier.seen.values(), default=0) + 1:
                    raise ProtocolError(f"nobody waited for {barrier.n_ended - 1} phases of {barrier.name}")
        finally:
            self.is_stopped = True
            for partition in self.partitions:
                if not partition.is_finished:
                    partition.resume()

    def fork(self, runs: dict[str, Callable[[], Any]]) -> Any:
        """Run partitions beside each other; return what the first returned, when all have ended."""
        parent = self.current
        children = [Partition(self, name, run, parent.clock) for name, run in runs.items()]
        self.partitions += children
        parent.pause(lambda: all(child.is_finished for child in children), "its partitions")
        for child in children:
            join(parent.clock, child.clock)
        return children[0].result

    def _step(self) -> None:
        ready: list[Partition | Action] = [p for p in self.partitions if not p.is_finished and p.is_open()]
        ready += [action for action in self.actions if action.after is None or action.after.is_done]
        if not ready:
            waiting = [f"{p.name} for {p.waits_for}" for p in self.partitions if not p.is_finished]
            raise ProtocolError(f"deadlock: {', '.join(waiting)}")
        chosen = self.chance.choices(ready, [self._weight(candidate.name) for candidate in ready])[0]
        if isinstance(chosen, Action):
            self.actions.remove(chosen)
            chosen.do()
            chosen.is_done = True
            return
        self.current = chosen
        chosen.resume()
        if chosen.error is not None:
            raise chosen.error

    def _weight(self, name: str) -> float:
        """Some are slow in one run and quick in another, so that one seed sees full rings and the next sees empty ones."""
        if name not in self._weights:
            self._weights[name] = self.chance.choice((0.02, 1.0, 50.0))
        return self._weights[name]
