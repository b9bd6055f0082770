"""The routes that only the operator uses: on a port of their own, with a token."""

from __future__ import annotations

import asyncio

from fastapi import FastAPI, Request
from starlette.responses import Response

from tilth.deploy.server.api_errors import json_response
from tilth.deploy.server.app import bare_app
from tilth.deploy.server.limits import BearerGuard, read_body
from tilth.deploy.server.schemas import LoadCall, UnloadCall, read_call
from tilth.deploy.server.service import Service
from tilth.deploy.server.tenants import Tenants


def make_admin_app(service: Service, tenants: Tenants, token: str) -> FastAPI:
    """The application of the admin port; every route asks for the token."""
    app = bare_app("Tilth, administration")
    app.add_middleware(BearerGuard, keys=(token,))

    @app.post("/v1/load_delta")
    async def load_delta(request: Request) -> Response:
        asked = read_call(LoadCall, await read_body(request, service.limits))
        return json_response((await tenants.load(asked.model)).describe())

    @app.post("/v1/unload_delta")
    async def unload_delta(request: Request) -> Response:
        asked = read_call(UnloadCall, await read_body(request, service.limits))
        is_gone = await tenants.unload(asked.model, asked.timeout_seconds)
        # 202: nothing new reaches it; it goes with its last request
        return json_response({"id": asked.model, "status": "unloaded" if is_gone else "unloading"}, 200 if is_gone else 202)

    @app.post("/v1/cache/clear")
    async def clear_cache() -> Response:
        await asyncio.to_thread(service.engine.clear_cache)
        return json_response({"status": "cleared"})

    return app
