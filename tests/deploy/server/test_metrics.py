"""What Prometheus reads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from tilth.deploy.server.engine_metrics import of_cache
from tilth.inference.cache.stats import CacheStats
from tilth.inference.engine.requests import MissReason


def read(server: Any) -> dict[tuple[str, str], float]:
    """(name, its labels as text) -> value."""
    families = text_string_to_metric_families(server.get("/metrics").text)
    return {(sample.name, ",".join(sample.labels.values())): sample.value for family in families for sample in family.samples}


def test_requests_are_counted_and_timed(serve: Any) -> None:
    server = serve(deltas=("poet",), tenants={"poet": None})
    body = {"model": "base", "prompt": [5, 6, 7, 8], "max_tokens": 3}
    for _ in range(2):
        assert server.post("/v1/completions", body).status_code == 200
    server.post("/v1/completions", body | {"stream": True, "n": 2})
    server.post("/v1/chat/completions", {"model": "nobody", "messages": [{"role": "user", "content": "x"}]})
    found = read(server)
    assert found["tilth_http_requests_total", "/v1/completions,200"] == 3
    assert found["tilth_http_requests_total", "/v1/chat/completions,404"] == 1
    assert found["tilth_time_to_first_token_seconds_count", ""] == 3
    assert found["tilth_inter_token_latency_seconds_count", ""] == 2 + 2 + 4
    assert found["tilth_e2e_request_latency_seconds_count", ""] == 3
    assert found["tilth_e2e_request_latency_seconds_sum", ""] > 0
    assert found["tilth_request_queue_time_seconds_sum", ""] == 3 * 0.25
    assert found["tilth_open_requests", ""] == 0
    assert found["tilth_prompt_tokens_total", "base"] == 12
    assert found["tilth_cached_tokens_total", "base"] == 6
    assert found["tilth_generation_tokens_total", "base"] == 3 + 3 + 6
    assert found["tilth_prefix_cache_misses_total", "no_prefix"] == 1
    assert server.engine.stats().misses["none"] == 2
    assert ("tilth_prefix_cache_misses_total", "none") not in found  # a hit is no miss
    assert (found["tilth_state_bytes", ""], found["tilth_delta_bytes", ""]) == (600, 1000)


def test_what_runs_and_waits(serve: Any, stub: Any) -> None:
    server = serve(stub.StubEngine(max_rows=1))
    server.engine.hold()
    with ThreadPoolExecutor() as threads:
        calls = [
            threads.submit(server.post, "/v1/completions", {"model": "base", "prompt": "x", "max_tokens": 50, "seed": 1})
            for _ in range(3)
        ]
        server.engine.wait_for(lambda: len(server.engine.waiting) == 3)
        server.engine.allow(1)
        server.engine.wait_for(lambda: len(server.engine.running) == 1)
        found = read(server)
        assert (found["tilth_requests_waiting", ""], found["tilth_branches_running", ""], found["tilth_open_requests", ""]) == (
            2,
            1,
            3,
        )
        server.engine.go_on()
        assert [call.result().status_code for call in calls] == [200] * 3


def test_the_caches_own_numbers() -> None:
    stats = CacheStats(arm="lru")
    stats.count("root", 100, 60, 1e9, MissReason.NO_STATE)
    stats.evictions["leaf"] += 3
    samples = {(sample.name, *sample.labels.values()): sample.value for family in of_cache(stats) for sample in family.samples}
    assert samples == {
        ("tilth_prefix_cache_queries_total",): 100,
        ("tilth_prefix_cache_hits_total",): 60,
        ("tilth_prefix_cache_saved_flops_total",): 1e9,
        ("tilth_prefix_cache_evictions_total", "leaf"): 3,
        ("tilth_prefix_cache_policy", "lru"): 1,
    }
