"""What is counted for Prometheus: the times of requests as the server saw them, and the engine's numbers when it is asked."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from tilth.deploy.server.engine_metrics import EngineCollector

# 1 ms to 400 s, the range of SGLang's buckets
BUCKETS = (
    .001, .002, .005, .01, .02, .04, .06, .08, .1, .2, .4, .6, .8, 1, 2, 4, 6, 8, 10, 20, 40, 60, 80, 100, 200, 400,
)  # fmt: skip


class Metrics:
    """One registry a server, so that two in one process do not mix. n_open tells how many calls lack their whole answer."""

    def __init__(self, engine: EngineCollector, n_open: Callable[[], int]) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(engine)
        self.requests = Counter("tilth_http_requests", "Calls by status", ["endpoint", "status"], registry=self.registry)
        self.given_up = Counter("tilth_requests_given_up", "Calls that ended early", ["reason"], registry=self.registry)
        Gauge("tilth_open_requests", "Calls without their whole answer", registry=self.registry).set_function(n_open)
        self.queue = self._seconds("request_queue_time", "From the engine's queue to the first chunk of the prompt")
        self.first_token = self._seconds("time_to_first_token", "From the call to its first token")
        self.next_token = self._seconds("inter_token_latency", "Between tokens of one branch")
        self.whole = self._seconds("e2e_request_latency", "From the call to its last token")

    def _seconds(self, name: str, what: str) -> Histogram:
        return Histogram(f"tilth_{name}_seconds", what, buckets=BUCKETS, registry=self.registry)

    def render(self) -> bytes:
        """The text that Prometheus reads."""
        return generate_latest(self.registry)
