"""What happens before a server is ready: wrong options are found first, and what is compiled on first use is compiled."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tilth.deploy.server import serve as serving
from tilth.deploy.server.limits import Limits
from tilth.deploy.server.ports import Ports
from tilth.deploy.server.running import run
from tilth.deploy.server.serve import ServeOptions
from tilth.deploy.server.service import Served
from tilth.errors import UserError
from tilth.inference.engine.limits import EngineLimits
from tilth.inference.tenants.weights import LowRankTerm, TenantWeights
from tilth.models.weights import save_model


@pytest.fixture
def options(make_model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ServeOptions:
    """Of a model that no test of these gets as far as to load."""
    save_model(tmp_path, make_model("MA"))

    def fail(*_: Any) -> None:
        pytest.fail("the model was loaded")

    monkeypatch.setattr(serving, "load_model", fail)
    return ServeOptions(base=tmp_path, ports=Ports(port=0, admin_port=0))


@pytest.fixture(autouse=True)
def levels() -> Iterator[None]:
    """Logging as it was."""
    loggers = [logging.getLogger(name) for name in ("tilth.kernels", "uvicorn")]
    before = [logger.level for logger in loggers]
    yield
    for logger, level in zip(loggers, before, strict=True):
        logger.setLevel(level)


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that somebody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        yield other.getsockname()[1]


def refusal(options: ServeOptions) -> UserError:
    with pytest.raises(UserError) as found:
        serving.serve(options)
    return found.value


@pytest.mark.parametrize("device", ["banana", "cuda", "cuda:9", "cpu:x"])
def test_a_device_that_is_not_there(options: ServeOptions, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    error = refusal(replace(options, device=device))
    assert error.where == "--device"
    assert device in error.what
    assert "cpu" in (error.fix or "")


def test_ports_that_are_taken(options: ServeOptions, taken: int) -> None:
    error = refusal(replace(options, ports=Ports(port=taken, admin_port=0)))
    assert error.where == "--port"
    assert str(taken) in error.what
    assert refusal(replace(options, ports=Ports(port=0, admin_port=taken))).where == "--admin-port"
    assert refusal(replace(options, ports=Ports(port=0, admin_host="nowhere.invalid", admin_port=0))).where == "--admin-port"


def test_one_port_for_both(options: ServeOptions) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        free = other.getsockname()[1]
    assert "both ports" in refusal(replace(options, ports=Ports(port=free, admin_port=free))).what


def test_a_name_that_no_delta_can_have(options: ServeOptions) -> None:
    assert "../up" in refusal(replace(options, deltas={"../up": Path("x")})).what


def test_too_little_memory_names_what_one_request_needs(options: ServeOptions) -> None:
    error = refusal(replace(options, engine=EngineLimits(capacity_bytes=1000)))
    assert error.where == "--memory"
    least = int(error.what.rpartition(" ")[2].replace(",", ""))
    assert "too few" in refusal(replace(options, engine=EngineLimits(capacity_bytes=least - 1))).what
    with pytest.raises(pytest.fail.Exception, match="the model was loaded"):
        serving.serve(replace(options, engine=EngineLimits(capacity_bytes=least)))


def test_kernels_and_uvicorn_are_silent_unless_something_is_wrong(options: ServeOptions) -> None:
    with pytest.raises(pytest.fail.Exception):
        serving.serve(options)
    for name in ("tilth.kernels", "uvicorn.error"):
        assert not logging.getLogger(name).isEnabledFor(logging.INFO)
        assert logging.getLogger(name).isEnabledFor(logging.WARNING)


def test_the_base_and_each_kind_of_tenant_speak_before_anybody_asks(serve: Callable[..., Any], stub: Any) -> None:
    engine, asked = stub.StubEngine(), []
    submit = engine.submit

    def note(request: Any, on_event: Any) -> int:
        asked.append(request)
        return submit(request, on_event)

    engine.submit = note
    low_rank = {"a": (LowRankTerm(torch.ones(2, 1), torch.ones(1, 2)),)}
    kinds = {"one": {}, "two": {}, "three": low_rank}

    class Store:
        def load(self, name: str, path: Path | None = None) -> None:
            pass

        def acquire(self, name: str) -> TenantWeights:
            return TenantWeights(name, products=kinds[name])

    server = serve(engine, store=Store(), tenants=dict.fromkeys(kinds))
    assert [request.tenant for request in asked] == [None, "one", "three"]
    assert not any(request.uses_cache for request in asked)
    assert all(request.max_tokens > 1 for request in asked)  # one token comes of reading, the next of a step
    assert "tilth_open_requests 0.0" in server.get("/metrics").text


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_engine_that_dies_at_once_is_never_ready(stub: Any, tokenizer: Any) -> None:
    engine, ready = stub.StubEngine(), []
    engine.fatal.add(0)
    served = Served(engine=engine, name="base", tokenizer=tokenizer, vocab_size=tokenizer.vocab_size)
    ports = Ports(port=0)
    assert asyncio.run(run(served, Limits(), ports, on_ready=lambda *found: ready.append(found))) == 1
    assert not ready
