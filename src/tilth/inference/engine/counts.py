"""What an engine has counted since it was made."""

from __future__ import annotations

import dataclasses
from collections import Counter
from dataclasses import dataclass, field

from tilth.inference.cache.prefix_cache import PrefixCache
from tilth.inference.engine.jobs import Job
from tilth.inference.engine.limits import EngineStats


@dataclass
class Counts:
    """Tokens by tenant (None = the base), requests by how they ended and by what the cache had for them."""

    prompt: Counter[str | None] = field(default_factory=Counter)
    cached: Counter[str | None] = field(default_factory=Counter)
    new: Counter[str | None] = field(default_factory=Counter)
    finished: Counter[str] = field(default_factory=Counter)
    misses: Counter[str] = field(default_factory=Counter)
    n_reading: int = 0
    n_preempted: int = 0
    n_faults: int = 0

    def begun(self, job: Job) -> None:
        """A request has left the queue."""
        self.prompt[job.request.tenant] += len(job.request.prompt_ids)
        self.cached[job.request.tenant] += job.n_cached_tokens
        self.misses[job.miss_reason.value] += 1

    def stats(self, cache: PrefixCache, n_waiting: int, n_decoding: int) -> EngineStats:
        """All of it with the cache's own, copied: the engine's thread goes on counting."""
        found = cache.stats
        return EngineStats(
            n_waiting=n_waiting,
            n_reading=self.n_reading,
            n_decoding=n_decoding,
            n_preempted=self.n_preempted,
            n_faults=self.n_faults,
            capacity_bytes=cache.capacity_bytes,
            used_bytes=cache.used_bytes,
            reserved_bytes=cache.reserved_bytes,
            kv_bytes=cache.kv_bytes,
            checkpoint_bytes=cache.checkpoint_bytes,
            n_prompt_tokens=dict(self.prompt),
            n_cached_tokens=dict(self.cached),
            n_new_tokens=dict(self.new),
            finished=dict(self.finished),
            misses=dict(self.misses),
            cache=dataclasses.replace(
                found, evictions=found.evictions.copy(), misses=found.misses.copy(), by_root=dict(found.by_root)
            ),
        )
