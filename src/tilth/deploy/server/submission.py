"""From the engine's thread to the event loop and back: one call's requests, their events, and how they are given up."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import Protocol

from tilth.deploy.server.api_errors import ApiError
from tilth.deploy.server.branch_text import StopWatch
from tilth.inference.engine.limits import EngineStats
from tilth.inference.engine.requests import Event, NewToken, OnEvent, Request, RequestFinished
from tilth.inference.tenants.weights import TenantWeights


class Engine(Protocol):
    """What the server asks of an engine; `inference.engine.engine.Engine` is one."""

    def submit(self, request: Request, on_event: OnEvent) -> int:
        """Queue the request; its events come to on_event in the engine's thread, RequestFinished last."""

    def cancel(self, request_id: int, branch: int | None = None, *, is_done: bool = False) -> None:
        """Give the request, or one branch of it, up and free its state; unknown and finished ones are ignored.

        is_done: it has said all that was wanted, and the cache may keep it.
        """

    def run(self, stop: threading.Event) -> None:
        """The loop of the engine's thread."""

    def drain(self) -> None:
        """Take nothing new."""

    def load_tenant(self, name: str, weights: TenantWeights) -> None:
        """Serve the fine-tune under that name."""

    def unload_tenant(self, name: str) -> None:
        """Serve it no more; waits for what runs or refuses."""

    def clear_cache(self) -> None:
        """Drop all that no request uses."""

    def stats(self) -> EngineStats:
        """How things stand."""


class Mailbox:
    """Carries events of all calls to the event loop; the loop is woken once for all that came since it last looked."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._posted: deque[tuple[Submission, int, Event]] = deque()
        self._is_ringing = False

    def post(self, to: Submission, prompt: int, event: Event) -> None:
        """Called in the engine's thread."""
        self._posted.append((to, prompt, event))
        if not self._is_ringing:
            self._is_ringing = True
            try:
                self._loop.call_soon_threadsafe(self._deliver)
            except RuntimeError:  # the loop is closed: nobody is left to read
                self._posted.clear()

    def _deliver(self) -> None:
        # cleared first: what is posted from here on rings again
        self._is_ringing = False
        for _ in range(len(self._posted)):
            to, prompt, event = self._posted.popleft()
            to.take(prompt, event)


class Submission:
    """The requests of one call in the engine, one for each prompt, and the events that nobody has read yet.

    At most max_pending events wait (None: any number): then the reader is too slow, and the call is given up. Everything but
    `_hear` and `Mailbox.post` runs in the event loop.
    """

    def __init__(self, engine: Engine, mailbox: Mailbox, max_pending: int | None) -> None:
        self._engine, self._mailbox, self._max_pending = engine, mailbox, max_pending
        self._ids: dict[int, int] = {}  # prompt -> the engine's number, while not finished
        self._pending: deque[tuple[int, Event]] = deque()
        self._arrived = asyncio.Event()
        self._reason: ApiError | None = None

    def submit(self, requests: Sequence[Request], watches: Sequence[Sequence[StopWatch]] = ()) -> None:
        """All of them or none: raises what the engine raises, after taking back those before.

        watches[prompt][branch] end a branch, where there are stop strings.
        """
        try:
            for prompt, request in enumerate(requests):
                on_event = partial(self._hear, prompt, watches[prompt] if watches else ())
                self._ids[prompt] = self._engine.submit(request, on_event)
        except Exception:
            self.close()
            raise

    def _hear(self, prompt: int, watches: Sequence[StopWatch], event: Event) -> None:
        """In the engine's thread: a branch ends with its stop string, and all else goes on to the event loop."""
        if watches and isinstance(event, NewToken):
            watch, number = watches[event.branch], self._ids.get(prompt)
            watch.note(event.token_id)
            # a first token may come before the number: the next one tries again
            if watch.has_stopped and number is not None:
                self._engine.cancel(number, event.branch, is_done=True)
        self._mailbox.post(self, prompt, event)

    def take(self, prompt: int, event: Event) -> None:
        """One event has come."""
        if isinstance(event, RequestFinished):
            self._ids.pop(prompt, None)
        if self._reason is not None:
            return
        is_full = self._max_pending is not None and len(self._pending) >= self._max_pending
        if is_full and not isinstance(event, RequestFinished):
            self.give_up(ApiError(408, "The client reads too slowly: its answer was given up.", code="slow_reader"))
            return
        self._pending.append((prompt, event))
        self._arrived.set()

    async def batches(self, idle_seconds: float) -> AsyncIterator[list[tuple[int, Event]]]:
        """All events, as many at a time as have come; an empty list after idle_seconds without one.

        Raises what give_up was given.
        """
        while True:
            if self._reason is not None:
                raise self._reason
            if self._pending:
                batch = list(self._pending)
                self._pending.clear()
                yield batch
            elif not self._ids:
                return
            else:
                self._arrived.clear()
                try:
                    async with asyncio.timeout(idle_seconds):
                        await self._arrived.wait()
                except TimeoutError:
                    yield []

    def give_up(self, reason: ApiError) -> None:
        """Cancel all that runs, and tell the reader why."""
        self._reason = self._reason or reason
        self._pending.clear()
        self.close()
        self._arrived.set()

    def close(self) -> None:
        """Cancel what still runs; the end of every call, harmless where all has finished."""
        for number in list(self._ids.values()):
            self._engine.cancel(number)
