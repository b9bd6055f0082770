"""DeltaStore: the deltas of one base on disk, and as many of them in memory as fit, the longest unused leaving first."""

from __future__ import annotations

import re
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from tilth.deploy.delta_file import load_delta
from tilth.deploy.tenant import tenant_weights
from tilth.errors import DeltaError, NotFoundError, did_you_mean
from tilth.inference.tenants.weights import TenantWeights
from tilth.models.weights import weights_digest

DELTA_FILE = "delta.safetensors"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass
class _Held:
    """One delta that is counted, or on its way there: then n_waiting wait for `reading`, and n_bytes is 0 if nobody had it.

    n_users says how often it was acquired and not released. While that is more than never, only those who acquired it keep its
    tensors alive: an engine copies them beside those of other tenants, and would else hold them twice. Unused, it is in `own`.
    """

    reading: Future[TenantWeights] | None = None
    n_waiting: int = 0
    n_users: int = 0
    n_bytes: int = 0
    own: TenantWeights | None = None
    lent: Callable[[], TenantWeights | None] = lambda: None


class DeltaStore:
    """Names, files, and weights in memory, under one cap of bytes: those unused, and those that were acquired, wherever
    they are by now. All methods may be called from any thread.

    A delta is found as `files[name]`, as `folder/name.safetensors` or as `folder/name/delta.safetensors`. The base's tensors
    are not copied: the rows of its tables are read where a delta has differences of them.
    """

    def __init__(
        self,
        base_state: Mapping[str, Tensor],
        *,
        folder: Path | None = None,
        files: Mapping[str, Path] | None = None,
        capacity_bytes: int,
        base_digest: str | None = None,
    ) -> None:
        """base_digest = weights_digest(base_state), computed where it is not given. Raises DeltaError for a name that climbs."""
        self._base_state = base_state
        self._base_digest = base_digest or weights_digest(base_state)
        self._folder = folder
        self._files = {check_name(name): Path(path) for name, path in (files or {}).items()}
        self._capacity_bytes = capacity_bytes
        self._held: OrderedDict[str, _Held] = OrderedDict()  # the longest unused first
        self._lock = threading.RLock()

    @property
    def used_bytes(self) -> int:
        """Bytes of what is kept here unused, and of what was acquired and not released."""
        with self._lock:
            return self._used()

    def names(self) -> list[str]:
        """All deltas that can be acquired, in memory or not."""
        with self._lock:
            found = set(self._files)
        if self._folder is not None and self._folder.is_dir():
            found |= {path.stem for path in self._folder.glob("*.safetensors")}
            found |= {path.parent.name for path in self._folder.glob(f"*/{DELTA_FILE}")}
        return sorted(name for name in found if NAME.fullmatch(name))

    def in_memory(self) -> list[str]:
        """The names of those that used_bytes counts, the longest unused first."""
        with self._lock:
            return [name for name, held in self._held.items() if held.reading is None]

    def acquire(self, name: str) -> TenantWeights:
        """The weights of a tenant, read from disk where they are not in memory; counted until each acquire is released.

        They live as long as the caller keeps them: once it has copied them, it may let go of them before it releases. Raises
        DeltaError for a file that is damaged or of another base, or where those in use leave no room; NotFoundError.
        """
        check_name(name)
        with self._lock:
            held = self._held.setdefault(name, _Held())
            self._held.move_to_end(name)
            if (weights := held.own or held.lent()) is not None:
                held.own, held.lent = None, weakref.ref(weights)
                held.n_users += 1
                return weights
            is_first = held.reading is None
            reading = held.reading = held.reading or Future()
            held.n_waiting += 1
        if is_first:
            self._read(name, held, reading)
        # whoever comes while another reads waits for it, and fails as it does
        return reading.result()

    def release(self, name: str) -> None:
        """Give back one acquire. After the last, what a user still has stays in memory. Raises DeltaError where there is none."""
        with self._lock:
            held = self._held.get(name)
            if held is None or held.n_users == 0:
                raise DeltaError(f"delta `{name}` was released more often than acquired", where="DeltaStore.release")
            held.n_users -= 1
            if held.n_users == 0:
                held.own = held.lent()
                if held.own is None and held.reading is None:
                    del self._held[name]

    def load(self, name: str, path: Path | None = None) -> TenantWeights:
        """Name a file (or one of the folder's) and read it into memory, unused. Raises what acquire does."""
        check_name(name)
        with self._lock:
            before, held = self._files.get(name), self._held.get(name)
            if path is not None:
                if held and (held.n_users or held.reading):
                    raise _in_use(name)
                if held or before not in (None, Path(path)):
                    raise DeltaError(f"delta `{name}` is there already", where="DeltaStore.load", fix="Unload it first.")
                self._files[name] = Path(path)
        try:
            weights = self.acquire(name)
        except Exception:
            with self._lock:
                if before is None:
                    self._files.pop(name, None)
            raise
        self.release(name)
        return weights

    def unload(self, name: str) -> None:
        """Forget a delta: its memory, and its file's name if it was given one. Raises DeltaError while it is in use."""
        with self._lock:
            held = self._held.get(name)
            if held is not None and (held.n_users or held.reading):
                raise _in_use(name)
            if held is None and name not in self.names():
                raise self._not_found(name)
            self._held.pop(name, None)
            self._files.pop(name, None)

    def _read(self, name: str, held: _Held, reading: Future[TenantWeights]) -> None:
        """Fill held, outside the lock: others may use what is there meanwhile."""
        try:
            delta = load_delta(self._path(name))
            weights = tenant_weights(delta, self._base_state, self._base_digest)
            with self._lock:
                if not held.n_bytes:
                    self._make_room(name, weights.size_bytes)
                held.n_users, held.n_bytes, held.lent = held.n_users + held.n_waiting, weights.size_bytes, weakref.ref(weights)
                held.n_waiting, held.reading = 0, None
            reading.set_result(weights)
        except BaseException as error:
            with self._lock:
                held.n_waiting, held.reading = 0, None
                if held.n_users == 0:
                    self._held.pop(name, None)
            reading.set_exception(error)

    def _make_room(self, name: str, n_bytes: int) -> None:
        """Drop what is unused, the longest unused first, until n_bytes more fit."""
        unused = [other for other, held in self._held.items() if held.own is not None]
        while self._used() + n_bytes > self._capacity_bytes and unused:
            del self._held[unused.pop(0)]
        if self._used() + n_bytes > self._capacity_bytes:
            raise DeltaError(
                f"there is no room for delta `{name}` of {n_bytes:,} bytes",
                where=f"{self._used():,} of {self._capacity_bytes:,} bytes are in use",
                fix="Give the store more bytes, or wait until a tenant is released.",
            )

    def _used(self) -> int:
        return sum(held.n_bytes for held in self._held.values())

    def _path(self, name: str) -> Path:
        with self._lock:
            named = self._files.get(name)
        if named is not None:
            return named
        if self._folder is not None:
            for path in (self._folder / f"{name}.safetensors", self._folder / name / DELTA_FILE):
                if path.is_file():
                    return path
        raise self._not_found(name)

    def _not_found(self, name: str) -> NotFoundError:
        where = str(self._folder or "DeltaStore")
        return NotFoundError(f"there is no delta `{name}`", where, did_you_mean(name, self.names()))


def check_name(name: str) -> str:
    """The name of a tenant, which is also that of a file: raises DeltaError for one that could climb out of a folder."""
    if not NAME.fullmatch(name) or ".." in name:
        raise DeltaError(
            f"{name!r} is no name of a delta",
            where="its name",
            fix="Use letters, digits, `.`, `_` and `-`, at most 100, a letter or digit first.",
        )
    return name


def _in_use(name: str) -> DeltaError:
    return DeltaError(f"delta `{name}` is in use", where="DeltaStore", fix="Wait until its requests are done, then try again.")
