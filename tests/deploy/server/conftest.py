"""Servers on free ports of the loopback, in threads that end with their test, over an engine without a model."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import openai
import pytest

from tilth.deploy.server.limits import Limits
from tilth.deploy.server.ports import Ports
from tilth.deploy.server.running import Stopper, run
from tilth.deploy.server.service import Served
from tilth.errors import NotFoundError
from tilth.tokenize.bpe import Tokenizer, train_bpe

ADMIN_TOKEN = "the-operator"
SECONDS = 60.0


@pytest.fixture(scope="session")
def stub() -> ModuleType:
    """The module beside this file: with importlib's import mode, tests cannot import it by name."""
    spec = importlib.util.spec_from_file_location("stub_engine", Path(__file__).parent / "stub_engine.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["stub_engine"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    """Bytes and a few merges, so that characters beyond ASCII take several tokens."""
    return Tokenizer(train_bpe(["the quick brown fox jumps over the lazy dog " * 20, "END of it. STOP here. " * 20], 320))


class FakeStore:
    """A store whose deltas are names; calls are what it was asked for."""

    def __init__(self, *names: str) -> None:
        self.names, self.calls = set(names), []

    def load(self, name: str, path: Path | None = None) -> Any:
        self.calls.append(("load", name, path))
        if name not in self.names:
            raise NotFoundError(f"there is no delta `{name}`", "the store", f"Known: {sorted(self.names)}.")

    def acquire(self, name: str) -> Any:
        from tilth.inference.tenants.weights import TenantWeights

        self.calls.append(("acquire", name))
        return TenantWeights(f"digest of {name}", size_bytes=1000)

    def release(self, name: str) -> None:
        self.calls.append(("release", name))

    def unload(self, name: str) -> None:
        self.calls.append(("unload", name))


@dataclass
class RunningServer:
    """port and admin_port of a server in a thread; client is an openai client that never retries."""

    port: int
    admin_port: int
    engine: Any
    store: FakeStore
    stopper: Stopper
    loop: asyncio.AbstractEventLoop
    thread: threading.Thread
    result: dict[str, Any]
    http: httpx.Client
    clients: list[openai.OpenAI] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def post(self, path: str, body: Any = None, **options: Any) -> httpx.Response:
        return self.http.post(f"{self.url}{path}", json=body, **options)

    def get(self, path: str, **options: Any) -> httpx.Response:
        return self.http.get(f"{self.url}{path}", **options)

    def admin(self, path: str, body: Any = None, token: str = ADMIN_TOKEN) -> httpx.Response:
        headers = {"authorization": f"Bearer {token}"}
        return self.http.post(f"http://127.0.0.1:{self.admin_port}{path}", json=body, headers=headers)

    def client(self, **options: Any) -> openai.OpenAI:
        self.clients.append(openai.OpenAI(**self._client_options(options)))
        return self.clients[-1]

    def async_client(self, **options: Any) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(**self._client_options(options))

    def _client_options(self, options: dict[str, Any]) -> dict[str, Any]:
        return {"base_url": f"{self.url}/v1", "api_key": "any", "max_retries": 0, "timeout": SECONDS, **options}

    def ask_to_stop(self) -> None:
        self.loop.call_soon_threadsafe(self.stopper.ask)

    def join(self) -> int:
        """Its exit code, once it has ended."""
        self.thread.join(SECONDS)
        assert not self.thread.is_alive()
        if "error" in self.result:
            raise self.result["error"]
        return self.result["code"]


def start_server(engine: Any, served: Served, limits: Limits, store: FakeStore, **options: Any) -> RunningServer:
    ready, result, found = threading.Event(), {}, {}

    async def main() -> int:
        found["loop"], found["stopper"] = asyncio.get_running_loop(), Stopper()

        def on_ready(port: int, admin_port: int | None) -> None:
            found.update(port=port, admin_port=admin_port)
            ready.set()

        ports = Ports(port=options.pop("port", 0), admin_port=0, admin_token=ADMIN_TOKEN, api_keys=options.pop("api_keys", ()))
        return await run(served, limits, ports, store=store, stopper=found["stopper"], on_ready=on_ready, **options)

    def in_thread() -> None:
        try:
            result["code"] = asyncio.run(main())
        except BaseException as error:
            result["error"] = error
            ready.set()

    thread = threading.Thread(target=in_thread, name="server")
    thread.start()
    assert ready.wait(SECONDS)
    if "error" in result:
        raise result["error"]
    http = httpx.Client(timeout=SECONDS, limits=httpx.Limits(max_connections=None), trust_env=False)
    return RunningServer(found["port"], found["admin_port"], engine, store, found["stopper"], found["loop"], thread, result, http)


def starter(stub: ModuleType, tokenizer: Tokenizer) -> Iterator[Callable[..., RunningServer]]:
    servers: list[RunningServer] = []

    def start(
        engine: Any = None, limits: Limits | None = None, folder: Path | None = None, deltas: tuple[str, ...] = (), **options: Any
    ) -> RunningServer:
        sizes = {"vocab_size": tokenizer.vocab_size, "size_bytes": 4000, "n_parameters": 1000}
        served = options.pop("served", None) or Served(
            engine=engine or stub.StubEngine(), name="base", tokenizer=tokenizer, folder=folder, **sizes
        )
        store = options.pop("store", None) or FakeStore(*deltas)
        servers.append(start_server(served.engine, served, limits or Limits(drain_seconds=5.0), store, **options))
        if isinstance(served.engine, stub.StubEngine):  # what the start asked of it is no test's
            served.engine.seen.clear()
            served.engine.counts.clear()
        return servers[-1]

    yield start
    for server in servers:
        for client in (server.http, *server.clients):
            client.close()  # a socket that is left to the collector is a warning in whatever test runs then
        if server.thread.is_alive():
            if isinstance(server.engine, stub.StubEngine):
                server.engine.go_on()
            server.ask_to_stop()
            server.thread.join(SECONDS)
            assert not server.thread.is_alive()


@pytest.fixture(scope="module")
def serve_module(stub: ModuleType, tokenizer: Tokenizer) -> Iterator[Callable[..., RunningServer]]:
    """As serve, for the tests of a file."""
    yield from starter(stub, tokenizer)


@pytest.fixture
def serve(stub: ModuleType, tokenizer: Tokenizer) -> Iterator[Callable[..., RunningServer]]:
    """serve(engine=None, limits=None, folder=None, deltas=(), **options of run): a server that ends with the test."""
    yield from starter(stub, tokenizer)


@pytest.fixture(scope="module")
def server(serve_module: Callable[..., RunningServer]) -> RunningServer:
    """A server with all at its defaults, for the tests of a file."""
    return serve_module()
