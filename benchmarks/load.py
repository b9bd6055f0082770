"""Replays Mooncake's conversation trace (FAST'25) on a server over the loopback, at 1 to 8 times its speed, then far beyond.

    python benchmarks/load.py [TRACE] [--requests 200] [--speeds 1 2 4 8] [--quick]

TRACE is conversation_trace.jsonl, by default the one in TILTH_TEST_DATA. Arrivals are the trace's own, divided by the speed, and
nobody waits for anybody. Lengths fit the small model: a 64th of the input, a 16th of the output; each 512-token block is 8
tokens drawn from its hash, so that prompts share what the trace shares. Requests go round between the base and two tenants, as
streams. Told: time to the first token, between tokens, and end to end, as the client sees them on the same cores; tokens that
the cache saved; refusals; the server's memory. `burst` sends all at once, ten times what may wait: the others must get 429
with Retry-After, nobody an error.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from results import append, row
from served_model import LOADED, MODEL, Serving, serving

INPUT_SHARE, OUTPUT_SHARE, BLOCK_TOKENS, LONGEST = 64, 16, 8, 2000
MODELS = ("base", *LOADED)
TRACE = "mooncake_traces/FAST25-release/traces/conversation_trace.jsonl"
BURST, MAX_WAITING = 640, 64


@dataclass
class Told:
    """What one client saw. Seconds."""

    status: int = 0
    first_token: float = 0.0
    whole: float = 0.0
    gaps: list[float] = field(default_factory=list)
    n_prompt: int = 0
    n_cached: int = 0
    retry_after: str = ""
    error: str = ""


def block_tokens(block: int) -> list[int]:
    draw = random.Random(block)
    return [draw.randrange(1, MODEL.vocab_size) for _ in range(BLOCK_TOKENS)]


def read_requests(path: Path, n: int) -> list[tuple[float, dict[str, Any]]]:
    """(seconds of arrival, body) of the first n requests."""
    found = []
    with path.open() as lines:
        for number, line in zip(range(n), lines, strict=False):
            told = json.loads(line)
            tokens = [token for block in told["hash_ids"] for token in block_tokens(block)]
            tokens = tokens[: max(1, min(LONGEST, told["input_length"] // INPUT_SHARE))]
            body = {
                "model": MODELS[number % len(MODELS)],
                "prompt": tokens,
                "max_tokens": max(1, told["output_length"] // OUTPUT_SHARE),
            }
            body |= {"ignore_eos": True, "temperature": 0, "stream": True, "stream_options": {"include_usage": True}}
            found.append((told["timestamp"] / 1000, body))
    return found


async def ask(client: httpx.AsyncClient, body: dict[str, Any]) -> Told:
    """One stream, timed."""
    told, began, last = Told(), time.perf_counter(), 0.0
    try:
        async with client.stream("POST", "/v1/completions", json=body) as answer:
            told.status = answer.status_code
            told.retry_after = answer.headers.get("retry-after", "")
            async for line in answer.aiter_lines():
                if not line.startswith("data: {"):
                    continue
                chunk, now = json.loads(line[6:]), time.perf_counter()
                if "error" in chunk:
                    told.error = chunk["error"]["message"]
                if chunk.get("usage"):
                    told.n_prompt = chunk["usage"]["prompt_tokens"]
                    told.n_cached = chunk["usage"]["prompt_tokens_details"]["cached_tokens"]
                elif not told.first_token:
                    told.first_token = now - began
                else:
                    told.gaps.append(now - last)
                last = now
    except httpx.HTTPError as error:
        told.error = repr(error)
    told.whole = time.perf_counter() - began
    return told


async def replay(server: Serving, requests: list[tuple[float, dict[str, Any]]], speed: float) -> tuple[list[Told], int]:
    """What every client saw, and the most memory of the server."""
    peak = server.rss_bytes
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=200)
    async with httpx.AsyncClient(base_url=server.url, timeout=300, limits=limits, trust_env=False) as client:
        began, calls = time.perf_counter(), []
        for arrival, body in requests:
            await asyncio.sleep(max(0.0, arrival / speed - (time.perf_counter() - began)))
            calls.append(asyncio.create_task(ask(client, body)))
            peak = max(peak, server.rss_bytes)
        while any(not call.done() for call in calls):
            await asyncio.sleep(0.1)
            peak = max(peak, server.rss_bytes)
        return [call.result() for call in calls], peak


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))] if values else float("nan")


def report(name: str, told: list[Told], peak: int, before: int, cpu: float) -> list[dict[str, str]]:
    good = [each for each in told if each.status == 200 and not each.error]
    refused = [each for each in told if each.status == 429]
    failed = len(told) - len(good) - len(refused)
    first, gaps = [each.first_token * 1e3 for each in good], [gap * 1e3 for each in good for gap in each.gaps]
    cached = sum(each.n_cached for each in good) / max(1, sum(each.n_prompt for each in good))
    without = sum(1 for each in refused if not each.retry_after)
    notes = [
        f"{len(good)} answered, {len(refused)} refused with 429 ({without} without Retry-After), {failed} errors",
        f"first token p99 {percentile(first, 0.99):.3g} ms",
        f"between tokens p50 {percentile(gaps, 0.5):.3g} p99 {percentile(gaps, 0.99):.3g} ms",
        f"end to end p50 {statistics.median([each.whole for each in good]):.3g} s",
        f"{cached:.1%} of prompt tokens cached; server {cpu:.3g} s CPU",
        f"memory {before / 2**20:.0f} -> at most {peak / 2**20:.0f} MiB; 3 tenants, client on the same cores",
    ]
    if failed:
        bad = next(each for each in told if each.error or each.status not in (200, 429))
        notes.append(f"first error: {bad.error or bad.status}")
    found = row("load, Mooncake replay, first token p50", name, percentile(first, 0.5), "ms", None, "; ".join(notes), threads=1)
    print("  ".join(found[key] for key in ("what", "size", "ours", "unit", "notes")), flush=True)
    return [found]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trace", nargs="?", type=Path, default=Path(os.environ.get("TILTH_TEST_DATA", "")) / TRACE)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--speeds", type=float, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--quick", action="store_true", help="write nothing")
    options = parser.parse_args()
    rows = []
    for speed in options.speeds:
        # a server each: a faster replay must not find what a slower one left in the cache
        with serving(max_waiting=MAX_WAITING) as server:
            before, cpu = server.rss_bytes, server.cpu_seconds
            told, peak = asyncio.run(replay(server, read_requests(options.trace, options.requests), speed))
            rows += report(f"{speed:g}x, {options.requests} requests", told, peak, before, server.cpu_seconds - cpu)
    with serving(max_waiting=MAX_WAITING) as server:
        before, cpu = server.rss_bytes, server.cpu_seconds
        told, peak = asyncio.run(replay(server, read_requests(options.trace, BURST), float("inf")))
        rows += report(f"burst of {BURST}, {MAX_WAITING} may wait", told, peak, before, server.cpu_seconds - cpu)
    if not options.quick:
        append(rows)


if __name__ == "__main__":
    main()
