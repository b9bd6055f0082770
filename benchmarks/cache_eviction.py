"""What an eviction costs in a cache of 100,000 nodes, and what a request costs in one that is always full.

CPU time of the thread, so that other work on the machine does not count. `python benchmarks/cache_eviction.py [n_nodes]`.
"""

from __future__ import annotations

import sys
import time

import numpy as np
from results import append, row

from tilth.inference.cache.costs import marconi_7b
from tilth.inference.cache.policies.lru import LRU
from tilth.inference.cache.policies.policy import Policy
from tilth.inference.cache.prefix_cache import PrefixCache
from tilth.inference.cache.selector import Selector

N_TOKENS = 24
N_REQUESTS = 4000


class TimedCache(PrefixCache):
    """Counts the seconds of each eviction."""

    def evict_one(self) -> None:
        """As the cache does it."""
        start = time.thread_time()
        super().evict_one()
        self.seconds.append(time.thread_time() - start)


def ask(cache: PrefixCache, tokens: np.ndarray, now: float) -> None:
    """A whole request."""
    match = cache.match("base", tokens, now)
    cache.insert(match, tokens, None, {} if match.cut is None else {match.cut: None}, now)
    cache.insert(match, np.append(tokens, 0).astype(np.int32), None, {len(tokens) + 1: None}, now)
    cache.release(match)


def measure(policy: Policy, n_nodes: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Milliseconds of each eviction and of each request, and the nodes that the cache held."""
    costs = marconi_7b()
    cache = TimedCache(costs, n_nodes * costs.size_bytes(N_TOKENS + 1, 1), policy)
    cache.seconds = []
    rng = np.random.default_rng(0)
    texts = rng.integers(0, 32_000, (n_nodes + N_REQUESTS, N_TOKENS), dtype=np.int32)
    for k in range(n_nodes):
        ask(cache, texts[k], k * 0.01)
    seconds = []
    for k in range(N_REQUESTS):
        # every second one goes on from an earlier text, which is still there or not
        old = texts[int(rng.integers(n_nodes))]
        tokens = texts[n_nodes + k] if k % 2 else np.concatenate([old, [0], texts[n_nodes + k]]).astype(np.int32)
        start = time.thread_time()
        ask(cache, tokens, (n_nodes + k) * 0.01)
        seconds.append(time.thread_time() - start)
    assert cache.ledger == cache.recount()
    return np.array(cache.seconds) * 1e3, np.array(seconds) * 1e3, cache.contents.tree.n_nodes


def main() -> None:
    """Two rows for each order: the default, and the least recently used."""
    n_nodes = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    rows = []
    for name, policy in (("default order", Selector()), ("LRU", LRU())):
        evictions, requests, n_held = measure(policy, n_nodes)
        p50, p99 = np.percentile(evictions, [50, 99])
        print(f"{name}: {n_held:,} nodes, {len(evictions):,} evictions: p50 {p50:.3f} p99 {p99:.3f} max {evictions.max():.2f} ms")
        notes = f"p50 {p50:.3f} ms, max {evictions.max():.2f} ms of {len(evictions)}; CPU time; bar: 1 ms"
        rows.append(row(f"cache eviction p99, {name}", f"{n_held} nodes", p99, "ms", notes=notes, threads=1))
        q50, q99 = np.percentile(requests, [50, 99])
        print(f"{name}: a request p50 {q50:.3f} p99 {q99:.3f} ms")
        notes = f"match, two inserts, release; p99 {q99:.3f} ms; CPU time"
        rows.append(row(f"cache calls of a request, {name}", f"{n_held} nodes", q50, "ms", notes=notes, threads=1))
    if n_nodes >= 100_000:
        append(rows)


if __name__ == "__main__":
    main()
