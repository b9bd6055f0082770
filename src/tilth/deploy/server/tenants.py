"""Tenants come and go while requests run: from the store into the engine, and out when their last request has ended."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from tilth.deploy.server.api_errors import LOG, ApiError
from tilth.deploy.server.models import Models, ServedModel
from tilth.deploy.server.submission import Engine
from tilth.inference.tenants.weights import TenantWeights


class Store(Protocol):
    """Where deltas come from; `deploy.store.DeltaStore` is one."""

    def load(self, name: str, path: Path | None = None) -> TenantWeights:
        """Read a file, or that of the store's folder, under a name."""

    def acquire(self, name: str) -> TenantWeights:
        """The weights by name, kept in memory until release."""

    def release(self, name: str) -> None:
        """Give one acquire back."""

    def unload(self, name: str) -> None:
        """Forget what was read."""


class Tenants:
    """Loads and unloads by name. n_parameters of the base make bytes of a delta into bits for each of its weights.

    files: of deltas that do not lie in the store's folder. What was unloaded is read anew when it is loaded again.
    """

    def __init__(
        self, engine: Engine, store: Store | None, models: Models, n_parameters: int, files: Mapping[str, Path | None]
    ) -> None:
        self._engine, self._store, self._models, self._n_parameters = engine, store, models, n_parameters
        self._files = files
        self._unloading: set[asyncio.Task[None]] = set()

    async def load(self, name: str) -> ServedModel:
        """Serve the delta of that name. Raises ApiError 409 for a name that is taken, and what store and engine raise."""
        if self._store is None:
            raise ApiError(400, "This server has no store of deltas.", code="no_store")
        self._models.reserve(name)
        try:
            weights = await asyncio.to_thread(self._read, self._store, name)
        except BaseException:
            self._models.free(name)
            raise
        bits = 8 * weights.size_bytes / self._n_parameters if self._n_parameters else None
        base = self._models.base.name
        return self._models.add(ServedModel(name, name, weights.size_bytes, base, None if bits is None else round(bits, 3)))

    def _read(self, store: Store, name: str) -> TenantWeights:
        store.load(name, self._files.get(name))
        weights = store.acquire(name)
        try:
            self._engine.load_tenant(name, weights)
        except BaseException:
            store.release(name)
            store.unload(name)
            raise
        return weights

    async def unload(self, name: str, timeout_seconds: float) -> bool:
        """The name is unknown from now on. Whether the tenant was gone within the time; else it goes when it can."""
        model = self._models.leave(name)
        task = asyncio.create_task(self._unload(model))
        self._unloading.add(task)  # a loop holds its tasks weakly
        task.add_done_callback(self._unloading.discard)
        done, _ = await asyncio.wait([task], timeout=timeout_seconds)
        for ended in done:
            ended.result()
        return bool(done)

    async def _unload(self, model: ServedModel) -> None:
        await self._models.wait_until_unused(model)
        try:
            await asyncio.to_thread(self._engine.unload_tenant, model.name)
        except Exception:
            LOG.exception("tenant %s could not be unloaded", model.name)
            self._models.add(model)
            raise
        if self._store is not None:
            self._store.release(model.name)
            self._store.unload(model.name)
        self._models.free(model.name)
