"""The engine's own counts, read when Prometheus asks: what runs and waits, tokens by tenant, the cache, bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from tilth.deploy.server.models import Models
from tilth.inference.cache.stats import CacheStats
from tilth.inference.engine.limits import EngineStats
from tilth.inference.engine.requests import MissReason


class EngineCollector(Collector):
    """Names as vLLM's, with the prefix tilth_. A tenant is a label of its name; the base has the base's."""

    def __init__(self, read: Callable[[], EngineStats], models: Models) -> None:
        self._read, self._models = read, models

    def collect(self) -> Iterable[Metric]:
        """One reading of the engine."""
        stats = self._read()
        yield gauge("requests_waiting", "Requests that have not begun", stats.n_waiting)
        yield gauge("prompts_reading", "Prompts that are read", stats.n_reading)
        yield gauge("branches_running", "Branches that get a token each iteration", stats.n_decoding)
        yield counter("preemptions", "Branches set back to make room for older ones", stats.n_preempted)
        yield counter("engine_faults", "Passes that failed; each failed its own requests", stats.n_faults)
        yield self._by_tenant("prompt_tokens", "Tokens of prompts", stats.n_prompt_tokens)
        yield self._by_tenant("cached_tokens", "Those of them that the cache saved", stats.n_cached_tokens)
        yield self._by_tenant("generation_tokens", "Tokens said", stats.n_new_tokens)
        yield labelled_counter("finished", "Branches by how they ended", "reason", stats.finished)
        yield gauge("state_capacity_bytes", "Cap of keys, values and recurrent states together", stats.capacity_bytes)
        yield gauge("state_bytes", "Those in use, by requests and by the cache", stats.used_bytes)
        yield gauge("state_reserved_bytes", "Those of running requests", stats.reserved_bytes)
        yield gauge("kv_bytes", "Those of keys and values in the cache", stats.kv_bytes)
        yield gauge("checkpoint_bytes", "Those of recurrent states in the cache", stats.checkpoint_bytes)
        tenants = [model for model in self._models.all() if model.tenant is not None]
        yield gauge("delta_bytes", "Memory of the tenants' deltas", sum(model.size_bytes for model in tenants))
        lacks = {reason: count for reason, count in dict(stats.misses).items() if reason != MissReason.NONE}
        yield labelled_counter("prefix_cache_misses", "Prompts by what the cache lacked", "reason", lacks)
        yield from of_cache(stats.cache)

    def _by_tenant(self, name: str, what: str, counts: Mapping[str | None, int]) -> Metric:
        named = {self._models.base.name if tenant is None else tenant: count for tenant, count in dict(counts).items()}
        return labelled_counter(name, what, "tenant", named)


def of_cache(stats: CacheStats) -> Iterable[Metric]:
    """What the prefix cache counts."""
    yield counter("prefix_cache_queries", "Tokens of prompts that the cache was asked for", stats.n_asked)
    yield counter("prefix_cache_hits", "Tokens that it had", stats.n_hit)
    yield counter("prefix_cache_saved_flops", "FLOPs that it saved", stats.saved_flops)
    yield labelled_counter("prefix_cache_evictions", "Evictions by what went", "reason", stats.evictions)
    family = GaugeMetricFamily("tilth_prefix_cache_policy", "The policy that orders the victims now", labels=["arm"])
    family.add_metric([stats.arm], 1)
    yield family


def gauge(name: str, what: str, value: float) -> Metric:
    """A number that goes up and down."""
    return GaugeMetricFamily(f"tilth_{name}", what, value=value)


def counter(name: str, what: str, value: float) -> Metric:
    """A number that only grows."""
    return CounterMetricFamily(f"tilth_{name}", what, value=value)


def labelled_counter(name: str, what: str, label: str, counts: Mapping[str, int]) -> Metric:
    """One that only grows for each value of a label."""
    family = CounterMetricFamily(f"tilth_{name}", what, labels=[label])
    # the engine's thread goes on meanwhile: a copy of the moment
    for value, count in dict(counts).items():
        family.add_metric([value], count)
    return family
