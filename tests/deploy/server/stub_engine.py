"""An engine without a model, of the protocol that the server uses: what it says is known beforehand, and it can be held still.

A branch says its prompt again and again, beginning at token (seed + branch); a tenant says it backwards. Log p of branch b
are -1 / (1 + b). Also what benchmarks of the server's own cost run against.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any

from tilth.inference.cache.stats import CacheStats
from tilth.inference.engine.limits import EngineStats
from tilth.inference.engine.requests import (
    BranchFinished,
    DrainingError,
    FinishReason,
    MissReason,
    NewToken,
    OnEvent,
    QueueFullError,
    Request,
    RequestFinished,
    TooLongError,
    UnknownTenantError,
)


@dataclass(eq=False)
class Job:
    id: int
    request: Request
    on_event: OnEvent
    n_said: list[int] = field(default_factory=list)
    ended: set[int] = field(default_factory=set)
    n_cached: int = 0


class StubEngine:
    """faults: token -> exception that reading a prompt with it raises; fatal: tokens whose reading kills the engine's thread."""

    def __init__(self, *, max_waiting: int = 64, max_rows: int = 64, max_tokens: int = 1 << 20) -> None:
        self.max_waiting, self.max_rows, self.max_tokens = max_waiting, max_rows, max_tokens
        self.faults: dict[int, Exception] = {}
        self.fatal: set[int] = set()
        self.tenants: dict[str, Any] = {}
        self.running: dict[int, Job] = {}
        self.waiting: deque[Job] = deque()
        self.counts = Counter[str]()
        self.seen: list[Request] = []
        self.given_up: list[tuple[int, int | None]] = []
        self.is_draining = False
        self._cancelled: set[tuple[int, int | None]] = set()
        self._allowed: int | None = None  # iterations that may still run; None = any number
        self._changed = threading.Condition()
        self._n_submitted = 0
        self._known: set[tuple[Any, ...]] = set()

    def submit(self, request: Request, on_event: OnEvent) -> int:
        with self._changed:
            if self.is_draining:
                raise DrainingError("draining")
            if request.tenant is not None and request.tenant not in self.tenants:
                raise UnknownTenantError(f"there is no tenant {request.tenant}")
            if len(request.prompt_ids) + request.max_tokens > self.max_tokens:
                raise TooLongError(f"more than {self.max_tokens} tokens")
            if len(self.waiting) >= self.max_waiting:
                raise QueueFullError("the queue is full", 2.5)
            self._n_submitted += 1
            self.waiting.append(Job(self._n_submitted, request, on_event, [0] * request.n))
            self.seen.append(request)
            self._changed.notify_all()
            return self._n_submitted

    def cancel(self, request_id: int, branch: int | None = None, *, is_done: bool = False) -> None:
        with self._changed:
            self._cancelled.add((request_id, branch))
            self.given_up.append((request_id, branch))
            self._changed.notify_all()

    def drain(self) -> None:
        self.is_draining = True

    def load_tenant(self, name: str, weights: Any) -> None:
        self.tenants[name] = weights

    def unload_tenant(self, name: str) -> None:
        with self._changed:
            assert not [job for job in (*self.waiting, *self.running.values()) if job.request.tenant == name], "it is in use"
            del self.tenants[name]

    def clear_cache(self) -> None:
        self._known.clear()

    def hold(self) -> None:
        """No iteration begins until `allow` or `go_on`."""
        with self._changed:
            self._allowed = 0

    def allow(self, n_iterations: int) -> None:
        with self._changed:
            assert self._allowed is not None
            self._allowed += n_iterations
            self._changed.notify_all()

    def go_on(self) -> None:
        with self._changed:
            self._allowed = None
            self._changed.notify_all()

    def wait_for(self, what: Any, seconds: float = 60.0) -> None:
        """Until what() holds, looked at after each change."""
        with self._changed:
            assert self._changed.wait_for(what, seconds), "it never came to that"

    def stats(self) -> EngineStats:
        return EngineStats(
            n_waiting=len(self.waiting), n_reading=0, n_decoding=len(self.running), n_preempted=0,
            n_faults=self.counts["fault"], capacity_bytes=1000, used_bytes=600, reserved_bytes=100, kv_bytes=400, checkpoint_bytes=100,
            n_prompt_tokens={None: self.counts["prompt"]}, n_cached_tokens={None: self.counts["cached"]},
            n_new_tokens={None: self.counts["new"]}, finished={}, misses={"no_prefix": self.counts["miss"], "none": self.counts["hit"]}, cache=CacheStats(arm="lru"),
        )  # fmt: skip

    def run(self, stop: threading.Event) -> None:
        while not stop.is_set():
            with self._changed:
                if not self._may_step():
                    self._changed.wait(0.05)
                    continue
                if self._allowed:
                    self._allowed -= 1
            self.step()
        for job in (*self.waiting, *self.running.values()):
            self._end_job(job, FinishReason.CANCELLED, "the engine has stopped")

    def _may_step(self) -> bool:
        # what is given up is freed also while the engine is held still
        return bool(self._cancelled) or (self._allowed != 0 and bool(self.waiting or self.running))

    def step(self) -> bool:
        with self._changed:
            cancelled, self._cancelled = self._cancelled, set()
            for job in (*self.waiting, *self.running.values()):
                for branch in range(job.request.n):
                    if {(job.id, None), (job.id, branch)} & cancelled and branch not in job.ended:
                        self._end(job, branch, FinishReason.CANCELLED, "cancelled")
            if self._allowed == 0 and cancelled:
                self._changed.notify_all()
                return True
        while self.waiting and len(self.running) < self.max_rows:
            self._begin(self.waiting.popleft())
        now = time.monotonic()
        for job in list(self.running.values()):
            if job.request.deadline is not None and job.request.deadline < now:
                self._end_job(job, FinishReason.CANCELLED, "the deadline has passed")
            else:
                self._say(job)
        with self._changed:
            self._changed.notify_all()
        return bool(self.running)

    def _begin(self, job: Job) -> None:
        ids = set(job.request.prompt_ids)
        if ids & self.fatal:
            raise RuntimeError("a defect in the engine")
        self.running[job.id] = job
        for token in ids & self.faults.keys():
            self.counts["fault"] += 1
            error = self.faults[token]
            self._end_job(job, FinishReason.ERROR, f"{type(error).__name__}: {error}")
            return
        root = (job.request.tenant, job.request.salt, job.request.prompt_ids)
        job.n_cached = len(job.request.prompt_ids) - 1 if root in self._known and job.request.uses_cache else 0
        self._known.add(root)
        self.counts["prompt"] += len(job.request.prompt_ids)
        self.counts["cached"] += job.n_cached
        self.counts["miss"] += not job.n_cached
        self.counts["hit"] += bool(job.n_cached)

    def _say(self, job: Job) -> None:
        request = job.request
        for branch in [branch for branch in range(request.n) if branch not in job.ended]:
            said = job.n_said[branch]
            place = request.seed + branch + said
            token = request.prompt_ids[(-place if request.tenant else place) % len(request.prompt_ids)]
            if token in request.stopping.stop_ids:
                self._end(job, branch, FinishReason.STOP)
                continue
            log_p, likeliest = None, ()
            if request.n_logprobs is not None:
                log_p = -1 / (1 + branch)
                likeliest = tuple((token + i, log_p - i) for i in range(request.n_logprobs))
            job.n_said[branch] += 1
            self.counts["new"] += 1
            job.on_event(NewToken(branch, token, log_p, likeliest))
            if job.n_said[branch] == request.max_tokens:
                self._end(job, branch, FinishReason.LENGTH)

    def _end(self, job: Job, branch: int, reason: FinishReason, message: str = "") -> None:
        job.ended.add(branch)
        job.on_event(BranchFinished(branch, reason, message))
        if len(job.ended) == job.request.n:
            self.running.pop(job.id, None)
            n_prompt = len(job.request.prompt_ids)
            miss = MissReason.NONE if job.n_cached else MissReason.NO_PREFIX
            if job in self.waiting:
                self.waiting.remove(job)
            job.on_event(RequestFinished(n_prompt, job.n_cached, sum(job.n_said), miss, 0.25))

    def _end_job(self, job: Job, reason: FinishReason, message: str) -> None:
        for branch in range(job.request.n):
            if branch not in job.ended:
                self._end(job, branch, reason, message)
