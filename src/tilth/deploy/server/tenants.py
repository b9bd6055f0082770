"""Tenants come and go while requests run: from the store into the engine, and out when their last request has ended."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Hashable, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

from tilth.deploy.server.api_errors import LOG, ApiError
from tilth.deploy.server.models import ServedModel
from tilth.deploy.server.service import Service
from tilth.inference.tenants.weights import TenantWeights

Result = TypeVar("Result")


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

    def __init__(self, service: Service, store: Store | None, n_parameters: int, files: Mapping[str, Path | None]) -> None:
        self._service, self._store, self._n_parameters, self._files = service, store, n_parameters, files
        self._engine, self._models = service.engine, service.models
        self._running: set[asyncio.Task[Any]] = set()
        self._warm: set[Hashable] = set()

    async def load(self, name: str) -> ServedModel:
        """Serve the delta of that name. Raises ApiError 409 for a name that is taken, and what store and engine raise.

        What has begun is done also where nobody waits for it any more.
        """
        if self._store is None:
            raise ApiError(400, "This server has no store of deltas.", code="no_store")
        self._models.reserve(name)
        return await asyncio.shield(self._begin(self._load(self._store, name)))

    async def _load(self, store: Store, name: str) -> ServedModel:
        try:
            weights = await asyncio.to_thread(self._read, store, name)
        except BaseException:
            self._models.free(name)
            raise
        await self._warm_up(name, weights)
        bits = 8 * weights.size_bytes / self._n_parameters if self._n_parameters else None
        base = self._models.base.name
        return self._models.add(ServedModel(name, name, weights.size_bytes, base, None if bits is None else round(bits, 3)))

    async def _warm_up(self, name: str, weights: TenantWeights) -> None:
        """Whoever asks first for a tenant of its kind need not wait for what is compiled on first use."""
        terms = (term for terms in weights.products.values() for term in terms)
        kind = frozenset((type(term), *(part is None for part in vars(term).values())) for term in terms)
        if kind not in self._warm:
            await self._service.warm_up(name)
            self._warm.add(kind)

    def _begin(self, work: Coroutine[Any, Any, Result]) -> asyncio.Task[Result]:
        task = asyncio.create_task(work)
        self._running.add(task)  # a loop holds its tasks weakly
        task.add_done_callback(self._note_done)
        return task

    def _note_done(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled() and task.exception() is not None:
            LOG.info("a tenant's load or unload failed: %s", task.exception())

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
        done, _ = await asyncio.wait([self._begin(self._unload(model))], timeout=timeout_seconds)
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
