"""What a replay counts, on traces that can be worked out by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tilth.errors import UserError
from tilth.inference.cache.costs import StateCosts
from tilth.inference.cache.policies.lru import LRU
from tilth.inference.cache.prefix_cache import PrefixCache
from tilth.inference.replay.replay import Server, replay
from tilth.inference.replay.request import TraceRequest

MakeRequest = Callable[..., TraceRequest]


def test_a_next_turn_reuses_all_before_it(costs: StateCosts, request_of: MakeRequest) -> None:
    trace = [request_of(0.0, [1, 2, 3], [4, 5]), request_of(10.0, [1, 2, 3, 4, 5, 6], [7])]
    result = replay(trace, PrefixCache(costs, 1000, LRU()), costs, is_instant=True)
    assert (result.n_requests, result.n_input_tokens, result.n_hit_tokens) == (2, 9, 5)
    assert result.token_hit_rate == pytest.approx(5 / 9)
    assert (result.flops, result.saved_flops) == (9.0, 5.0)
    assert result.high_water_bytes == 7 + 2 * 10
    assert result.n_evictions == 0


def test_a_shared_prefix_pays_from_the_third_time(costs: StateCosts, request_of: MakeRequest) -> None:
    trace = [request_of(float(k), [1, 2, 3, 4, 10 + k], [20 + k]) for k in range(3)]
    result = replay(trace, PrefixCache(costs, 1000, LRU()), costs, is_instant=True)
    assert result.n_hit_tokens == 4, "seen at first, cut at the second, reused at the third"


def test_flops_weigh_late_tokens_more(request_of: MakeRequest) -> None:
    costs = StateCosts(kv_bytes=1, checkpoint_bytes=10, token_flops=1.0, pair_flops=2.0)
    trace = [request_of(0.0, [1, 2, 3]), request_of(1.0, [1, 2, 3, 4])]
    result = replay(trace, PrefixCache(costs, 1000, LRU()), costs, is_instant=True)
    first, second, saved = 3 + 2 * 6, 4 + 2 * 10, 3 + 2 * 6
    assert result.flop_hit_rate == pytest.approx(saved / (first + second))


def test_prompts_wait_for_their_turn(costs: StateCosts, request_of: MakeRequest) -> None:
    server = Server(flops_per_second=1.0, seconds_per_token=5.0)
    trace = [request_of(0.0, [1, 2, 3], [9]), request_of(1.0, [4, 5], [9]), request_of(100.0, [1, 2, 3, 9, 6], [7])]
    result = replay(trace, PrefixCache(costs, 1000, LRU()), costs, server)
    # read 0-3; waits until 3 and is read by 5; the third comes late and reads one token
    assert result.seconds_to_first_N.tolist() == [3.0, 4.0, 1.0]
    assert result.seconds_to_first(50) == 3.0
    instant = replay(trace, PrefixCache(costs, 1000, LRU()), costs, server, is_instant=True)
    assert instant.seconds_to_first_N.tolist() == [3.0, 2.0, 1.0]


def test_what_is_still_written_cannot_be_reused(costs: StateCosts, request_of: MakeRequest) -> None:
    server = Server(flops_per_second=1.0, seconds_per_token=5.0)
    trace = [request_of(0.0, [1, 2], [3, 4]), request_of(3.0, [1, 2, 3, 4, 5])]
    assert replay(trace, PrefixCache(costs, 1000, LRU()), costs, server).n_hit_tokens == 0, "written at 12 s"
    late = [trace[0], request_of(12.0, [1, 2, 3, 4, 5])]
    assert replay(late, PrefixCache(costs, 1000, LRU()), costs, server).n_hit_tokens == 4


@pytest.mark.parametrize("capacity", [0, 1, 12, 30, 60])
def test_the_capacity_holds_whatever_comes(costs: StateCosts, request_of: MakeRequest, capacity: int) -> None:
    trace = [request_of(float(k), [k % 3, *range(100 * k, 100 * k + 17)], [1, 2, 3]) for k in range(12)]
    for is_instant in (True, False):
        cache = PrefixCache(costs, capacity, LRU())
        result = replay(trace, cache, costs, Server(1.0, 2.0), is_instant=is_instant)
        assert result.high_water_bytes <= capacity
        assert cache.recount().used_bytes == cache.used_bytes


def test_roots_share_nothing(costs: StateCosts, request_of: MakeRequest) -> None:
    first, second = request_of(0.0, [1, 2, 3]), request_of(1.0, [1, 2, 3, 4])
    other = TraceRequest(1.0, second.input_N, second.output_M, root="tenant")
    assert replay([first, second], PrefixCache(costs, 1000, LRU()), costs, is_instant=True).n_hit_tokens == 3
    assert replay([first, other], PrefixCache(costs, 1000, LRU()), costs, is_instant=True).n_hit_tokens == 0


def test_every_request_is_told(costs: StateCosts, request_of: MakeRequest) -> None:
    told: list[int] = []
    replay([request_of(0.0, [1]), request_of(0.0, [2])], PrefixCache(costs, 100, LRU()), costs, tell=told.append)
    assert told == [1, 2]


@pytest.mark.parametrize(("flops", "seconds"), [(0.0, 0.1), (float("nan"), 0.1), (1.0, -1.0)])
def test_a_server_has_a_speed(flops: float, seconds: float) -> None:
    with pytest.raises(UserError, match="speed"):
        Server(flops, seconds)
