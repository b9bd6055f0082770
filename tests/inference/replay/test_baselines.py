"""The block-wise baselines, on traces that can be worked out by hand."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from tilth.inference.cache.costs import StateCosts
from tilth.inference.cache.policies.lru import LRU
from tilth.inference.cache.prefix_cache import PrefixCache
from tilth.inference.replay.aligned_cache import AlignedCache
from tilth.inference.replay.block_cache import BlockCache
from tilth.inference.replay.replay import Server, replay
from tilth.inference.replay.request import TraceRequest

MakeRequest = Callable[..., TraceRequest]


def test_blocks_are_reused_whole_and_leave_a_token_to_read(costs: StateCosts, request_of: MakeRequest) -> None:
    trace = [request_of(0.0, range(9), [100]), request_of(1.0, range(8)), request_of(2.0, [*range(7), 50, 51])]
    cache = BlockCache(costs, 1000, block=4)
    result = replay(trace, cache, costs, is_instant=True)
    # nothing; 4 of 8, for the last of two blocks holds the last token; 4, where the second block differs
    assert result.n_hit_tokens == 0 + 4 + 4
    assert cache.used_bytes == 3 * (4 + 10)


def test_the_least_recent_leaf_goes_and_never_what_others_stand_on(costs: StateCosts, request_of: MakeRequest) -> None:
    block_bytes = 4 + 10
    trace = [
        request_of(0.0, range(12)),  # three blocks
        request_of(1.0, range(100, 104)),  # a fourth, which fills the cache
        request_of(2.0, range(200, 204)),  # the third block of the first request goes
        request_of(3.0, range(13)),  # two blocks are there
    ]
    cache = BlockCache(costs, 4 * block_bytes, block=4)
    result = replay(trace, cache, costs, is_instant=True)
    assert result.n_hit_tokens == 8
    assert cache.n_evicted == 2
    assert result.high_water_bytes == 4 * block_bytes


def test_a_sequence_larger_than_the_cache_keeps_its_beginning(costs: StateCosts, request_of: MakeRequest) -> None:
    cache = BlockCache(costs, 2 * 14, block=4)
    result = replay([request_of(0.0, range(40)), request_of(1.0, range(40))], cache, costs, is_instant=True)
    assert (result.n_hit_tokens, result.high_water_bytes) == (8, 28)


def test_blocks_in_use_stay(costs: StateCosts) -> None:
    cache = BlockCache(costs, 2 * 14, block=4)
    first = cache.match("a", np.arange(9, dtype=np.int32), 0.0)
    cache.insert(first, np.arange(9, dtype=np.int32), None, {}, 0.0)
    second = cache.match("a", np.arange(50, 59, dtype=np.int32), 1.0)
    cache.insert(second, np.arange(50, 59, dtype=np.int32), None, {}, 1.0)
    assert (cache.n_evicted, len(first.blocks), len(second.blocks)) == (0, 2, 0)
    cache.release(first)
    cache.insert(second, np.arange(50, 59, dtype=np.int32), None, {}, 2.0)
    assert (cache.n_evicted, len(second.blocks)) == (2, 2)


def test_roots_share_no_blocks(costs: StateCosts) -> None:
    cache, tokens = BlockCache(costs, 1000, block=4), np.arange(9, dtype=np.int32)
    match = cache.match("a", tokens, 0.0)
    cache.insert(match, tokens, None, {}, 0.0)
    assert cache.match("b", tokens, 0.0).n_tokens == 0
    assert cache.match("a", tokens, 0.0).n_tokens == 8


def test_aligned_reuse_is_on_the_grid(costs: StateCosts, request_of: MakeRequest) -> None:
    trace = [
        request_of(0.0, range(10), [10, 11, 12]),  # its last full block ends at 12
        request_of(1.0, range(20)),  # 12
        request_of(2.0, [*range(7), *range(100, 110)]),  # nothing; a junction at 4
        request_of(3.0, [*range(5), *range(200, 210)]),  # 4
    ]
    cache = AlignedCache(PrefixCache(costs, 10_000, LRU()), grid=4)
    result = replay(trace, cache, costs, is_instant=True)
    assert result.n_hit_tokens == 12 + 0 + 4
    assert result.n_evictions == 0


def test_what_is_shorter_than_a_block_is_not_kept(costs: StateCosts, request_of: MakeRequest) -> None:
    cache = AlignedCache(PrefixCache(costs, 10_000, LRU()), grid=512)
    result = replay([request_of(0.0, range(300), range(400, 500)), request_of(1.0, range(400))], cache, costs, is_instant=True)
    assert (result.n_hit_tokens, result.high_water_bytes) == (0, 0)


@pytest.mark.parametrize("is_instant", [True, False])
def test_neither_passes_its_capacity(costs: StateCosts, request_of: MakeRequest, is_instant: bool) -> None:
    trace = [request_of(float(k), [k % 3, *range(100 * k, 100 * k + 17)], [1, 2, 3]) for k in range(12)]
    for cache in (BlockCache(costs, 50, block=4), AlignedCache(PrefixCache(costs, 50, LRU()), grid=4)):
        result = replay(trace, cache, costs, Server(1.0, 2.0), is_instant=is_instant)
        assert 0 < result.high_water_bytes <= 50
