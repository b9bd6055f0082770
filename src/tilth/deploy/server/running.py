"""A server while it runs: two ports and the engine's thread in one process, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI

from tilth.deploy.server.admin import make_admin_app
from tilth.deploy.server.api_errors import LOG, draining
from tilth.deploy.server.app import make_app
from tilth.deploy.server.limits import Limits
from tilth.deploy.server.ports import Ports, open_ports
from tilth.deploy.server.service import Served, Service
from tilth.deploy.server.submission import Engine
from tilth.deploy.server.tenants import Store, Tenants

SAME_WISH_SECONDS = 0.5
CLOSING_SECONDS = 2  # connections may take this long to close after the last answer
ENGINE_SECONDS = 10.0  # and the engine's thread this long to end its iteration


class Stopper:
    """How often the end was asked for: once to finish what there is, twice for the end at once.

    What comes within half a second is the same wish: a terminal and a wrapper both pass a signal on.
    """

    def __init__(self) -> None:
        self.asked, self.asked_twice = asyncio.Event(), asyncio.Event()
        self._first_time = 0.0

    def ask(self) -> None:
        """Called in the event loop."""
        now = time.monotonic()
        if not self.asked.is_set():
            self._first_time = now
            self.asked.set()
        elif now - self._first_time > SAME_WISH_SECONDS:
            self.asked_twice.set()


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: two servers share this process."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def run(
    served: Served,
    limits: Limits,
    ports: Ports,
    *,
    store: Store | None = None,
    tenants: Mapping[str, Path | None] | None = None,
    stopper: Stopper | None = None,
    on_ready: Callable[[int, int | None], None] = lambda port, admin_port: None,
) -> int:
    """Serve until SIGTERM, SIGINT or the stopper; returns the exit code: 0, 1 where the engine failed, 143 when ended at once.

    tenants are loaded into the store before the ports answer, by name from a file or (None) the store's folder, and what is
    compiled on first use is compiled by then; on_ready gets the ports. Raises UserError for a port that is taken, and what
    loading a tenant raises.
    """
    stopper = stopper or Stopper()
    service = Service(served, limits)
    tenants = tenants or {}
    loaded = Tenants(service, store, served.n_parameters, tenants)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_signals(stopper))
        sockets = [stack.enter_context(each) for each in open_ports(ports, limits.write_seconds)]
        apps = [make_app(service, ports.api_keys)]
        if ports.admin_token:
            apps.append(make_admin_app(service, loaded, ports.admin_token))
        stop_engine, engine = threading.Event(), None
        try:
            engine = _start_engine(served.engine, stop_engine, service, stopper)
            await service.warm_up(None)
            for name in tenants:
                await loaded.load(name)
            if stopper.asked.is_set():  # by a signal, or because the engine has failed
                return 0 if service.failure is None else 1
            servers = [_server(app, limits) for app in apps]
            tasks = [asyncio.create_task(each.serve([sock])) for each, sock in zip(servers, sockets, strict=True)]
            found = [sock.getsockname()[1] for sock in sockets]
            on_ready(found[0], found[1] if len(found) > 1 else None)
            await _drain(service, stopper, limits)
            await _close(service, servers, tasks, stopper)
        finally:
            stop_engine.set()
            if engine is not None:
                await asyncio.to_thread(engine.join, 0.0 if stopper.asked_twice.is_set() else ENGINE_SECONDS)
    if stopper.asked_twice.is_set():
        return 128 + signal.SIGTERM
    return 0 if service.failure is None else 1


def _start_engine(engine: Engine, stop: threading.Event, service: Service, stopper: Stopper) -> threading.Thread:
    loop = asyncio.get_running_loop()

    def end(why: str) -> None:
        service.fail(why)
        stopper.ask()

    def loop_of_engine() -> None:
        why = "the engine's loop returned"
        try:
            engine.run(stop)
        except BaseException as error:
            LOG.critical("the engine's thread ended", exc_info=error)
            why = f"{type(error).__name__}: {error}"
        if not stop.is_set():
            loop.call_soon_threadsafe(end, why)

    # a daemon: an iteration that hangs must not keep the process
    thread = threading.Thread(target=loop_of_engine, name="engine", daemon=True)
    thread.start()
    return thread


async def _drain(service: Service, stopper: Stopper, limits: Limits) -> None:
    """Wait until the end is asked for; then until all that runs has its answer, the time is over, or it is asked for again.

    An engine that has failed answers nothing more: there is nothing to wait for.
    """
    await stopper.asked.wait()
    LOG.info("draining: %d requests are open", service.gate.n_open)
    service.gate.close(draining())
    service.engine.drain()
    ends = service.gate.wait_until_empty(), stopper.asked_twice.wait(), service.failed.wait()
    waits = [asyncio.create_task(end) for end in ends]
    await asyncio.wait(waits, timeout=limits.drain_seconds, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()
    service.give_up_all(draining())


async def _close(service: Service, servers: Sequence[_Server], tasks: Sequence[asyncio.Task[None]], stopper: Stopper) -> None:
    # those given up are told before their connections close
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(CLOSING_SECONDS):
            await service.gate.wait_until_empty()
    for server in servers:
        server.should_exit = True
        server.force_exit = stopper.asked_twice.is_set()
    await asyncio.gather(*tasks)
    for connection in [connection for server in servers for connection in server.server_state.connections]:
        connection.transport.abort()  # its reader takes nothing, so it would never be flushed
    await asyncio.sleep(0)  # the loop says so to their protocols


@contextlib.contextmanager
def _signals(stopper: Stopper) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread gets signals
        return
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopper.ask)
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


def _server(app: FastAPI, limits: Limits) -> _Server:
    config = uvicorn.Config(
        app,
        http="httptools",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=CLOSING_SECONDS,
        # a last barrier against connections without end; requests are bounded, and refused in words, by the gate
        limit_concurrency=4 * limits.max_open_requests,
    )
    return _Server(config)


def run_process(served: Served, limits: Limits, ports: Ports, **options: Any) -> int:
    """`run` in the main thread, on uvloop where there is one; returns the exit code. Raises what `run` raises."""
    # what was loaded stays: the collector need not walk through it again and again
    gc.collect()
    gc.freeze()
    factory = uvicorn.Config("", loop="auto", log_config=None).get_loop_factory()
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(run(served, limits, ports, **options))
