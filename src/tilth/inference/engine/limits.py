"""What an engine may use, and what it tells about itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tilth.errors import UserError
from tilth.inference.cache.stats import CacheStats


@dataclass(frozen=True, kw_only=True)
class EngineLimits:
    """capacity_bytes holds all keys, values and recurrent states, those of running requests and those of the cache together.

    It bounds what is in use, not what the process takes: the pool of keys and values grows in doublings up to capacity_bytes and
    shrinks only when its end is free, and the rows that decode have room for twice as many. Beside a pool that has grown, states
    may take up to capacity_bytes more: plan for twice that (1.2 times was seen). Weights, activations
    and the remembered tokens of evicted texts (up to 128 MB) are beside it.

    max_rows branches decode together; max_waiting requests wait before others are refused; max_tokens is the longest
    prompt and answer together. A prompt is read in chunks that end at multiples of chunk_tokens, and about one chunk is read
    between two tokens of those that decode. Raises UserError for a number below 1.
    """

    capacity_bytes: int = 1 << 30
    max_rows: int = 64
    max_waiting: int = 256
    max_tokens: int = 1 << 15
    chunk_tokens: int = 512

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 1:
                raise UserError(f"the engine's {name} is {value}", where=f"EngineLimits.{name}", fix="use at least 1")


@dataclass(frozen=True)
class EngineStats:
    """A moment of an engine. Tokens, ends (by FinishReason) and misses (by MissReason) are counted since it was made.

    Counts of tokens are by tenant, None = the base. used_bytes = reserved_bytes, those of running requests, + kv_bytes and
    checkpoint_bytes, those of the cache. cache is its own account; off_reason says why it is not used, empty where it is.
    """

    n_waiting: int
    n_reading: int
    n_decoding: int
    n_preempted: int
    n_faults: int
    capacity_bytes: int
    used_bytes: int
    reserved_bytes: int
    kv_bytes: int
    checkpoint_bytes: int
    n_prompt_tokens: Mapping[str | None, int]
    n_cached_tokens: Mapping[str | None, int]
    n_new_tokens: Mapping[str | None, int]
    finished: Mapping[str, int]
    misses: Mapping[str, int]
    cache: CacheStats
    off_reason: str = ""
    notes: tuple[str, ...] = ()
