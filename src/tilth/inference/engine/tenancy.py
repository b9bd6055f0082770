"""Which fine-tunes may be asked for, by how many requests each is used, and what a cache may share between them."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Hashable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

import torch
from torch import Tensor

from tilth.errors import NotFoundError, UserError
from tilth.inference.engine.jobs import Branch
from tilth.inference.engine.requests import UnknownTenantError
from tilth.inference.tenants.weights import TenantWeights


class Bank(Protocol):
    """What is used of tenants.bank.TenantBank."""

    def load(self, name: str, weights: TenantWeights) -> None:
        """Give the tenant a slot."""
        ...

    def unload(self, name: str) -> None:
        """Free it."""
        ...

    def slot(self, name: str) -> int:
        """Its number. Raises NotFoundError."""
        ...

    def digest(self, name: str) -> str:
        """What tells its weights from all others."""
        ...

    def rows(self, tenants_B: Tensor) -> AbstractContextManager[None]:
        """Inside, row i of a batch is the fine-tune in slot tenants_B[i], -1 for the base."""
        ...


class Tenancy:
    """`changed` guards the counts, and is notified when one falls."""

    def __init__(self, bank: Bank | None, changed: threading.Condition) -> None:
        self.bank = bank
        self._changed = changed
        self._n_users: Counter[str | None] = Counter()
        self._leaving: set[str] = set()

    def enter(self, name: str | None) -> tuple[int, str]:
        """Count a request of a tenant; returns its slot and whose states it may share, (-1, "") for the base.

        These are a tenant's own: another of the same weights could tell from its waiting what was asked. Raises
        UnknownTenantError.
        """
        with self._changed:
            found = -1, ""
            if name is not None:
                if self.bank is None or name in self._leaving:
                    raise UnknownTenantError(f"there is no fine-tune `{name}`", fix="load it first, or ask for the base")
                try:
                    found = self.bank.slot(name), f"{name}:{self.bank.digest(name)}"
                except NotFoundError as error:
                    raise UnknownTenantError(error.what, error.where, error.fix) from None
            self._n_users[name] += 1
            return found

    def leave(self, name: str | None) -> None:
        """A request of the tenant has ended."""
        with self._changed:
            self._n_users[name] -= 1
            self._changed.notify_all()

    def close(self, name: str, timeout_seconds: float) -> None:
        """Let nobody enter any more, and wait until all have left. Raises UnknownTenantError, and UserError after the time."""
        with self._changed:
            self.enter(name)
            self._n_users[name] -= 1
            self._leaving.add(name)
            if not self._changed.wait_for(lambda: self._n_users[name] == 0, timeout_seconds):
                self._leaving.discard(name)
                raise UserError(
                    f"`{name}` is used by {self._n_users[name]} requests after {timeout_seconds:.0f} s",
                    where=name,
                    fix="cancel them or wait longer",
                )

    def load(self, name: str, weights: TenantWeights) -> None:
        """Load a fine-tune, between two passes. Raises DeltaError, and UserError without a bank."""
        if self.bank is None:
            raise UserError("this engine serves the base alone", fix="make it with a bank of tenants")
        self.bank.load(name, weights)

    def unload(self, name: str) -> None:
        """Drop a fine-tune that was closed, between two passes."""
        assert self.bank is not None
        try:
            self.bank.unload(name)
        finally:
            with self._changed:
                self._leaving.discard(name)
                del self._n_users[name]

    def rows(self, branches: Sequence[Branch]) -> AbstractContextManager[None]:
        """A pass whose row i is the fine-tune of branches[i]."""
        if self.bank is None:
            return nullcontext()
        return self.bank.rows(torch.tensor([branch.job.tenant_slot for branch in branches]))


def root(base_digest: str, tenant: str, dtype: torch.dtype, salt: str) -> Hashable:
    """What the states of two requests must have in common to be shared."""
    return base_digest, tenant, str(dtype), salt
