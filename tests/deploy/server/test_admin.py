"""Tenants come and go by the admin port, while requests run."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest

from tilth.deploy.server.api_errors import ApiError
from tilth.deploy.server.limits import Limits
from tilth.deploy.server.service import Served, Service
from tilth.deploy.server.tenants import Tenants
from tilth.errors import DeltaError
from tilth.inference.tenants.weights import TenantWeights

PROMPT = "the quick brown fox "


def ask(server: Any, model: str) -> Any:
    return server.post("/v1/completions", {"model": model, "prompt": PROMPT, "max_tokens": 4, "seed": 1})


def test_every_route_needs_the_token(server: Any) -> None:
    for path in ("/v1/load_delta", "/v1/unload_delta", "/v1/cache/clear", "/openapi.json"):
        for token in ("x", "wrong", "the-operato", "the-operator2"):
            assert server.admin(path, {"model": "x"}, token).status_code == 401


def test_a_tenant_is_loaded_served_and_unloaded(serve: Any) -> None:
    server = serve(deltas=("poet", "clerk"))
    assert ask(server, "poet").status_code == 404
    loaded = server.admin("/v1/load_delta", {"model": "poet"})
    assert loaded.status_code == 200
    described = {"id": "poet", "parent": "base", "bytes": 1000, "delta_bits": 8.0}
    assert {name: loaded.json()[name] for name in described} == described
    assert [model["id"] for model in server.get("/v1/models").json()["data"]] == ["base", "poet"]
    assert ask(server, "poet").json()["model"] == "poet"
    assert ask(server, "poet").json()["choices"][0]["text"] != ask(server, "base").json()["choices"][0]["text"]
    assert server.engine.seen[0].tenant == "poet"
    assert server.admin("/v1/unload_delta", {"model": "poet"}).json() == {"id": "poet", "status": "unloaded"}
    assert ask(server, "poet").status_code == 404
    assert server.engine.tenants == {}
    assert server.admin("/v1/load_delta", {"model": "poet"}).status_code == 200
    # read anew: the file may be another by now
    once = [("load", "poet", None), ("acquire", "poet")]
    assert server.store.calls == [*once, ("release", "poet"), ("unload", "poet"), *once]


def test_tenants_given_at_the_start(serve: Any) -> None:
    server = serve(deltas=("poet", "clerk"), tenants={"poet": Path("elsewhere"), "clerk": None})
    assert [call[1:] for call in server.store.calls if call[0] == "load"] == [("poet", Path("elsewhere")), ("clerk", None)]
    assert [model.id for model in server.client().models.list().data] == ["base", "poet", "clerk"]


def test_refusals(serve: Any) -> None:
    server = serve(deltas=("poet",), tenants={"poet": None})
    for path, body, status, code in (
        ("/v1/load_delta", {"model": "nobody"}, 404, "model_not_found"),
        ("/v1/load_delta", {"model": "poet"}, 409, "model_exists"),
        ("/v1/load_delta", {"model": "base"}, 409, "model_exists"),
        ("/v1/load_delta", {"model": ""}, 400, "invalid_value"),
        ("/v1/load_delta", {"name": "poet"}, 400, "missing_parameter"),
        ("/v1/unload_delta", {"model": "nobody"}, 404, "model_not_found"),
        ("/v1/unload_delta", {"model": "base"}, 400, "base_model"),
        ("/v1/unload_delta", {"model": "poet", "timeout_seconds": -1}, 400, "invalid_value"),
    ):
        answer = server.admin(path, body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code), body
    assert server.admin("/v1/load_delta", {"model": "nobody"}).status_code == 404  # the name did not stay reserved


def test_a_tenant_in_use_is_finished_and_new_requests_do_not_know_it(serve: Any) -> None:
    server = serve(deltas=("poet",), tenants={"poet": None})
    server.engine.hold()
    with ThreadPoolExecutor() as threads:
        running = [threads.submit(ask, server, "poet") for _ in range(2)]
        other = threads.submit(ask, server, "base")
        server.engine.wait_for(lambda: len(server.engine.waiting) == 3)
        unloading = threads.submit(server.admin, "/v1/unload_delta", {"model": "poet"})
        while "poet" in str(server.get("/v1/models").json()):
            pass
        assert ask(server, "poet").status_code == 404
        # not waited for: it goes with its last request
        assert "poet" in server.engine.tenants
        assert server.admin("/v1/load_delta", {"model": "poet"}).status_code == 409
        server.engine.go_on()
        assert [answer.result().status_code for answer in (*running, other)] == [200] * 3
        assert unloading.result().json()["status"] == "unloaded"
    assert server.engine.tenants == {}


def test_an_unload_that_does_not_wait_is_done_later(serve: Any) -> None:
    server = serve(deltas=("poet",), tenants={"poet": None})
    server.engine.hold()
    with ThreadPoolExecutor() as threads:
        running = threads.submit(ask, server, "poet")
        server.engine.wait_for(lambda: len(server.engine.waiting) == 1)
        answer = server.admin("/v1/unload_delta", {"model": "poet", "timeout_seconds": 0})
        assert (answer.status_code, answer.json()["status"]) == (202, "unloading")
        server.engine.go_on()
        assert running.result().status_code == 200
    server.engine.wait_for(lambda: not server.engine.tenants)


def test_a_delta_that_the_engine_refuses_is_not_kept(serve: Any, stub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    server = serve(deltas=("poet",))

    def refuse(name: str, weights: Any) -> None:
        raise DeltaError("it does not fit", name, "take another")

    monkeypatch.setattr(server.engine, "load_tenant", refuse)
    answer = server.admin("/v1/load_delta", {"model": "poet"})
    assert (answer.status_code, answer.json()["error"]["message"]) == (400, "it does not fit; take another")
    assert server.store.calls[-2:] == [("release", "poet"), ("unload", "poet")]
    monkeypatch.undo()
    assert server.admin("/v1/load_delta", {"model": "poet"}).status_code == 200


def test_a_load_that_nobody_waits_for_is_finished(stub: Any, tokenizer: Any) -> None:
    began, may_go_on, stop = threading.Event(), threading.Event(), threading.Event()

    class SlowStore:
        def load(self, name: str, path: Path | None = None) -> TenantWeights:
            began.set()
            assert may_go_on.wait(60)
            return TenantWeights("digest")

        def acquire(self, name: str) -> TenantWeights:
            return TenantWeights("digest")

    async def cancel_a_load() -> list[str]:
        engine = stub.StubEngine()
        thread = threading.Thread(target=engine.run, args=(stop,))
        thread.start()
        service = Service(Served(engine=engine, name="base", tokenizer=tokenizer, vocab_size=tokenizer.vocab_size), Limits())
        tenants = Tenants(service, SlowStore(), 1000, {})
        waiting = asyncio.create_task(tenants.load("poet"))
        await asyncio.to_thread(began.wait)
        waiting.cancel()
        await asyncio.wait([waiting])
        with pytest.raises(ApiError, match="taken"):  # the thread goes on with it
            await tenants.load("poet")
        may_go_on.set()
        while "poet" not in [model.name for model in service.models.all()]:
            await asyncio.sleep(0.01)
        stop.set()
        await asyncio.to_thread(thread.join)
        return list(engine.tenants)

    assert asyncio.run(asyncio.wait_for(cancel_a_load(), 60)) == ["poet"]


def test_clearing_the_cache(server: Any) -> None:
    for expected in (0, 4, 0):
        answer = server.post("/v1/completions", {"model": "base", "prompt": [5, 6, 7, 8, 9], "max_tokens": 1}).json()
        assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] == expected
        if expected:
            assert server.admin("/v1/cache/clear").json() == {"status": "cleared"}


def test_the_client_is_told_of_a_tenant_that_left(serve: Any) -> None:
    server = serve(deltas=("poet",), tenants={"poet": None})
    server.admin("/v1/unload_delta", {"model": "poet"})
    with pytest.raises(openai.NotFoundError):
        server.client().completions.create(model="poet", prompt="x")
