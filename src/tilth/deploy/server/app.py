"""The routes that clients use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response

from tilth.deploy.server.api_errors import ApiError, as_api_error, json_response
from tilth.deploy.server.limits import BearerGuard, read_body
from tilth.deploy.server.schemas import ChatCall, CompletionCall, DetokenizeCall, TokenizeCall, read_call
from tilth.deploy.server.service import Service
from tilth.errors import TilthError


def make_app(service: Service, api_keys: Sequence[str] = ()) -> FastAPI:
    """The application of the public port. With api_keys all but /health and /ready ask for one of them."""
    app = bare_app("Tilth")
    app.add_middleware(BearerGuard, keys=tuple(api_keys), open_paths=("/health", "/ready"))

    # bodies are read by hand: bounded while they come, and wrong ones answered with 400
    app.post("/v1/completions", openapi_extra=_body(CompletionCall))(service.complete)
    app.post("/v1/chat/completions", openapi_extra=_body(ChatCall))(service.chat)

    @app.get("/v1/models")
    async def models() -> Response:
        return json_response({"object": "list", "data": [model.describe() for model in service.models.all()]})

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> Response:
        return json_response(service.models.find(name).describe())

    @app.post("/tokenize", openapi_extra=_body(TokenizeCall))
    async def tokenize(request: Request) -> Response:
        with service.gate.admit() as visit:
            asked = read_call(TokenizeCall, await read_body(request, service.limits, visit))
            service.models.find(asked.model or service.models.base.name)
            ids = await service.reader.encode(asked.prompt, begins=asked.add_special_tokens)
        return json_response({"tokens": ids, "count": len(ids), "max_model_len": service.limits.max_context_tokens})

    @app.post("/detokenize", openapi_extra=_body(DetokenizeCall))
    async def detokenize(request: Request) -> Response:
        with service.gate.admit() as visit:
            asked = read_call(DetokenizeCall, await read_body(request, service.limits, visit))
            service.models.find(asked.model or service.models.base.name)
            text = await service.reader.decode(service.reader.check_ids(asked.tokens, "tokens"))
        return json_response({"prompt": text})

    @app.get("/health")
    async def health() -> Response:
        return json_response({"status": "ok"}) if service.failure is None else _failed(service)

    @app.get("/ready")
    async def ready() -> Response:
        if service.failure is not None:
            return _failed(service)
        is_draining = service.gate.refusal is not None
        return json_response({"status": "draining" if is_draining else "ready"}, 503 if is_draining else 200)

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(service.metrics.render(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return app


def bare_app(title: str) -> FastAPI:
    """An application without routes whose every error is the API's JSON."""
    app = FastAPI(title=title, docs_url=None, redoc_url=None)

    async def answer(_: Request, error: Exception) -> Response:
        return as_api_error(error).response()

    async def answer_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        what = {404: f"There is no {request.url.path[:200]} here.", 405: f"{request.method} does not go with this path."}
        refusal = ApiError(error.status_code, what.get(error.status_code, str(error.detail)), code="no_such_route")
        return json_response(refusal.body(), error.status_code, error.headers)

    for kind in (ApiError, TilthError, Exception):
        app.add_exception_handler(kind, answer)
    app.add_exception_handler(HTTPException, answer_http)
    return app


def _failed(service: Service) -> Response:
    return json_response({"status": "failed", "why": service.failure}, 503)


def _body(kind: Any) -> dict[str, Any]:
    """The body's schema, for /openapi.json."""
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": kind.model_json_schema()}}}}
