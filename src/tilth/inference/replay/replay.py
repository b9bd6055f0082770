"""replay: a trace through a cache of states that are not there, request by request, and what it would have saved."""

from __future__ import annotations

import heapq
import itertools
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from tilth.errors import UserError
from tilth.inference.cache.costs import StateCosts
from tilth.inference.replay.request import TraceRequest


class Cache(Protocol):
    """What a replay asks of a cache: PrefixCache has it, and so have the baselines."""

    @property
    def used_bytes(self) -> int:
        """Bytes in the ledger."""
        ...

    @property
    def n_evicted(self) -> int:
        """How often something was evicted."""
        ...

    def match(self, root: Hashable, tokens: np.ndarray, now: float) -> Any:
        """What is known of a prompt, pinned: its n_tokens are reused, and the prefill is cut at `cut`."""
        ...

    def insert(self, match: Any, tokens: np.ndarray, slots: None, checkpoints: Mapping[int, Any], now: float) -> Any:
        """Take over tokens and the states at positions."""
        ...

    def release(self, match: Any) -> None:
        """End of the request."""
        ...


@dataclass(frozen=True)
class Server:
    """What a timed replay runs on: one machine that reads prompts one after the other, beside any number that are written.

    The default is two fifths of an H100's dense bf16 peak (989 TFLOP/s), and 50 tokens a second for each request.
    """

    flops_per_second: float = 4e14
    seconds_per_token: float = 0.02

    def __post_init__(self) -> None:
        """Raise UserError for speeds that are none."""
        if not 0 < self.flops_per_second < float("inf") or not 0 <= self.seconds_per_token < float("inf"):
            raise UserError("a server needs a speed above 0", "--flops", "Give FLOP/s, such as 4e14.")


@dataclass(frozen=True)
class ReplayResult:
    """What a replay counted. Tokens and FLOPs are those of inputs; seconds_to_first_N has an entry a request.

    high_water_bytes is the most that the ledger held after any call; cpu_seconds are those of the replay itself.
    """

    n_requests: int
    n_input_tokens: int
    n_hit_tokens: int
    flops: float
    saved_flops: float
    seconds_to_first_N: np.ndarray
    high_water_bytes: int
    n_evictions: int
    cpu_seconds: float

    @property
    def token_hit_rate(self) -> float:
        """Share of the input tokens that were not read again."""
        return self.n_hit_tokens / self.n_input_tokens

    @property
    def flop_hit_rate(self) -> float:
        """Share of the prefill's FLOPs that were saved; a late token costs more than an early one."""
        return self.saved_flops / self.flops

    def seconds_to_first(self, percentile: float) -> float:
        """Time to first token, in seconds."""
        return float(np.percentile(self.seconds_to_first_N, percentile))


Tell = Callable[[int], None]


def replay(
    requests: Sequence[TraceRequest],
    cache: Cache,
    costs: StateCosts,
    server: Server | None = None,
    *,
    is_instant: bool = False,
    tell: Tell | None = None,
) -> ReplayResult:
    """Drive `cache` by `requests`, which come in the order of their arrival; `tell` hears after each how many are done.

    Timed: a prompt waits until those before it are read, is matched when its turn comes, inserted when it is read, and its
    output when that is written; until then it is pinned. Instant, as the paper's simulator: a request ends as it arrives, and
    its time to first token is its own prefill alone.
    """
    running = _Replay(cache, costs, server or Server(), is_instant)
    started = time.process_time()
    for k, request in enumerate(requests, start=1):
        running.serve(request)
        if tell:
            tell(k)
    running.finish_until(float("inf"))
    return running.result(time.process_time() - started)


class _Replay:
    """The clock of one replay and what it has counted so far."""

    def __init__(self, cache: Cache, costs: StateCosts, server: Server, is_instant: bool) -> None:
        self.cache, self.costs, self.server, self.is_instant = cache, costs, server, is_instant
        self.free_at = 0.0  # when the server has read all prompts so far
        self.writing: list[tuple[float, int, TraceRequest, Any]] = []  # a heap by the end of the output
        self.order = itertools.count()
        self.n_input = self.n_hit = self.high_water = 0
        self.flops = self.saved = 0.0
        self.seconds_to_first: list[float] = []

    def serve(self, request: TraceRequest) -> None:
        """Read a prompt, as soon as the server is free; its output goes to `writing`."""
        n = len(request.input_N)
        start = request.arrival if self.is_instant else max(request.arrival, self.free_at)
        self.finish_until(start)
        match = self.cache.match(request.root, request.input_N, start)
        self._count(n, match.n_tokens)
        seconds = self.costs.prefill_flops(match.n_tokens, n) / self.server.flops_per_second
        self.free_at = start if self.is_instant else start + seconds
        self.seconds_to_first.append(start + seconds - request.arrival)
        self.finish_until(self.free_at)
        # a replay's states are their positions: nothing is restored from them
        self._insert(match, request.input_N, [] if match.cut is None else [match.cut], self.free_at)
        written = 0.0 if self.is_instant else self.server.seconds_per_token * len(request.output_M)
        heapq.heappush(self.writing, (self.free_at + written, next(self.order), request, match))
        if self.is_instant:
            self.finish_until(self.free_at)

    def finish_until(self, now: float) -> None:
        """Insert and release what is written by now."""
        while self.writing and self.writing[0][0] <= now:
            end, _, request, match = heapq.heappop(self.writing)
            self._insert(match, request.all_tokens(), [request.n_tokens], end)
            self.cache.release(match)

    def result(self, cpu_seconds: float) -> ReplayResult:
        """All counts."""
        n_evictions = self.cache.n_evicted
        return ReplayResult(
            len(self.seconds_to_first), self.n_input, self.n_hit, self.flops, self.saved,
            np.array(self.seconds_to_first), self.high_water, n_evictions, cpu_seconds,
        )  # fmt: skip

    def _count(self, n_input: int, n_hit: int) -> None:
        self.n_input += n_input
        self.n_hit += n_hit
        self.flops += self.costs.prefill_flops(0, n_input)
        self.saved += self.costs.prefill_flops(0, n_hit)

    def _insert(self, match: Any, tokens: np.ndarray, positions: list[int], now: float) -> None:
        self.cache.insert(match, tokens, None, {position: position for position in positions}, now)
        self.high_water = max(self.high_water, self.cache.used_bytes)
