"""Who is served under which name: the base, and tenants that come and go while requests run."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tilth.deploy.server.api_errors import ApiError
from tilth.errors import did_you_mean


@dataclass
class ServedModel:
    """A name of /v1/models. tenant is its name in the engine, None for the base; bytes are what it holds in memory."""

    name: str
    tenant: str | None
    size_bytes: int
    parent: str | None = None
    delta_bits: float | None = None
    created: int = field(default_factory=lambda: int(time.time()))
    n_running: int = 0
    emptied: asyncio.Event = field(default_factory=asyncio.Event)

    def describe(self) -> dict[str, Any]:
        """As /v1/models lists it."""
        described = {"id": self.name, "object": "model", "created": self.created, "owned_by": "tilth"}
        return described | {"parent": self.parent, "delta_bits": self.delta_bits, "bytes": self.size_bytes}


class Models:
    """The served models by name; those that leave are unknown at once and gone when their last request has ended."""

    def __init__(self, base: ServedModel) -> None:
        self.base = base
        self._served = {base.name: base}
        self._reserved: set[str] = set()

    def all(self) -> list[ServedModel]:
        """The base first, then tenants as they came."""
        return list(self._served.values())

    def find(self, name: str) -> ServedModel:
        """Raises ApiError 404 for a name that is not served, or no longer."""
        found = self._served.get(name)
        if found is None:
            # a name of any length came in: only its beginning goes out
            hint = did_you_mean(name[:200], self._served)
            raise ApiError(404, f"There is no model `{name[:200]}`. {hint}", param="model", code="model_not_found")
        return found

    @contextmanager
    def use(self, model: ServedModel) -> Iterator[None]:
        """While a request runs on it."""
        model.n_running += 1
        try:
            yield
        finally:
            model.n_running -= 1
            if model.n_running == 0:
                model.emptied.set()

    def reserve(self, name: str) -> None:
        """The name is taken and not yet served. Raises ApiError 409 for one that is taken, also by a tenant that still leaves."""
        if name in self._served or name in self._reserved:
            raise ApiError(409, f"The name `{name}` is taken.", param="model", code="model_exists")
        self._reserved.add(name)

    def free(self, name: str) -> None:
        """A reserved name may be taken again."""
        self._reserved.discard(name)

    def add(self, model: ServedModel) -> ServedModel:
        """From now on it is served."""
        self._reserved.discard(model.name)
        self._served[model.name] = model
        return model

    def leave(self, name: str) -> ServedModel:
        """From now on the name is unknown, and reserved until it is freed. Raises ApiError 404, and 400 for the base."""
        model = self.find(name)
        if model is self.base:
            raise ApiError(400, "The base cannot be unloaded.", param="model", code="base_model")
        del self._served[name]
        self._reserved.add(name)
        return model

    async def wait_until_unused(self, model: ServedModel) -> None:
        """Returns when its last request has ended."""
        while model.n_running:
            model.emptied.clear()
            await model.emptied.wait()
