"""Who goes first, by traces short enough to check by hand. A letter takes a byte, a checkpoint ten."""

from __future__ import annotations

import numpy as np
import pytest

from tilth.inference.cache.admission import Admission
from tilth.inference.cache.costs import StateCosts
from tilth.inference.cache.policies.flop_aware import FlopAware
from tilth.inference.cache.policies.greedy_dual import GreedyDual
from tilth.inference.cache.policies.hit_density import HitDensity
from tilth.inference.cache.policies.lru import LRU
from tilth.inference.cache.policies.return_times import N_BINS, ReturnTimes, age_bin
from tilth.inference.cache.policies.superseded import SupersededFirst
from tilth.inference.cache.policies.tuned_flop_aware import ALPHAS, TunedFlopAware
from tilth.inference.cache.prefix_cache import PrefixCache


def test_lru_drops_the_leaf_that_was_used_longest_ago(letters) -> None:
    cache = letters(38, LRU())
    for text in ("aa", "bb", "cc"):
        cache.ask(text)
    cache.ask("aab", keeps_last=False)  # refreshes aa
    cache.ask("dd")
    assert cache.states == {"aa", "cc", "dd"}
    assert cache.stats.evictions == {"leaf": 1}


def test_lru_drops_an_old_state_within_a_path_and_keeps_its_keys(letters) -> None:
    cache = letters(40, LRU())
    cache.ask("aa")
    cache.ask("aabb")
    cache.ask("cc")
    assert (cache.used_bytes, cache.states) == (36, {"aa", "aabb", "cc"})
    cache.ask("dd")
    assert cache.states == {"aabb", "cc", "dd"}
    assert cache.stats.evictions == {"superseded": 1}
    assert cache.kv_bytes == 8


def test_lru_of_leaves_keeps_states_within_paths_and_refreshes_all_above(letters) -> None:
    cache = letters(40, LRU(only_leaves=True, touches_path=True))
    cache.ask("aa")
    cache.ask("aabb")
    cache.ask("cc")
    cache.ask("dd")
    assert cache.states == {"aa", "cc", "dd"}


def test_flops_for_bytes_weigh_against_recency(letters) -> None:
    def states_of(alpha: float) -> set[str]:
        cache = letters(44, FlopAware(alpha))
        cache.ask("a" * 12)  # 12 FLOPs in 22 bytes
        cache.ask("bb")  # 2 in 12
        cache.ask("cc")
        return cache.states

    assert states_of(0.0) == {"bb", "cc"}
    assert states_of(2.0) == {"a" * 12, "cc"}


def test_a_score_is_recency_plus_alpha_times_efficiency_each_from_0_to_1(letters) -> None:
    """Ages 4, 2, 0 s -> 0, 0.5, 1; FLOPs a byte 12/22, 5/15, 2/12 -> 1, 0.44, 0: at alpha = 0.9 the middle one is lowest."""
    for alpha, victim in ((0.8, "a" * 12), (0.9, "b" * 5), (1.2, "cc")):
        cache = letters(60, FlopAware(alpha))
        for text in ("a" * 12, "b" * 5, "cc"):
            cache.ask(text, seconds=2.0)
        held = cache.states
        cache.evict_one()
        assert held - cache.states == {victim}


def test_branch_points_go_after_what_follows_them(letters) -> None:
    cache = letters(1000, FlopAware(1.0))
    for text in ("aax", "aay", "aaz"):
        cache.ask(text)
    assert "aa" in cache.states
    while len(cache.states) > 1:
        cache.evict_one()
    # with one child left it is a candidate as others are; until then it never was
    assert cache.states <= {"aa", "aay", "aaz"}


def test_superseded_goes_before_what_is_older(letters) -> None:
    cache = letters(1000, SupersededFirst(LRU()))
    cache.ask("old")
    cache.ask("aa")
    cache.ask("aabb")
    cache.ask("aabbcc")
    gone = []
    for _ in range(3):
        before = cache.states
        cache.evict_one()
        gone += before - cache.states
    assert gone == ["aa", "aabb", "old"]


def test_a_branch_or_what_was_used_twice_is_not_superseded(letters) -> None:
    cache = letters(1000, SupersededFirst(LRU()))
    cache.ask("aa")
    cache.ask("aabb")
    cache.ask("aacc")
    cache.ask("old")
    for text in ("dd", "ddee", "ddeeff"):
        cache.ask(text)
    cache.evict_one()
    assert "dd" not in cache.states
    assert "aa" in cache.states


def test_greedy_dual_keeps_what_is_asked_for_often_until_the_clock_passes_it(letters) -> None:
    cache = letters(36, GreedyDual(), admission=Admission(keeps_branch_points=False))
    cache.ask("aa")
    for _ in range(3):
        cache.ask("aab", keeps_last=False)
    for text in ("cc", "dd", "ee", "ff"):
        cache.ask(text)
    assert "aa" in cache.states
    for k in range(40):
        cache.ask(f"{k:02d}")
    assert "aa" not in cache.states


def test_rates_of_return_are_those_that_were_drawn() -> None:
    """Kind 0 returns after 8 s on average, whatever its age; kind 1 never does."""
    returns, rng, now = ReturnTimes(2), np.random.default_rng(0), 0.0
    due: list[tuple[float, int]] = []
    for _ in range(3000):
        now += 1.0
        due.append((now + rng.exponential(8.0), returns.begin(0, now)))
        returns.begin(1, now)
        for when, ticket in [entry for entry in due if entry[0] <= now]:
            returns.end(ticket, when, has_returned=True)
        due = [entry for entry in due if entry[0] > now]
    returns.update(now)
    ages = age_bin(np.array([0.5, 4.0, 16.0]))
    assert np.allclose(returns.rates[0, ages], 1 / 8, rtol=0.2)
    assert (returns.rates[1, ages] < 0.002).all()
    assert returns.rates.shape == (2, N_BINS)


def test_tickets_that_ended_or_left_the_ring_change_nothing() -> None:
    returns = ReturnTimes(1)
    ticket = returns.begin(0, 1.0)
    returns.end(ticket, 2.0, has_returned=True)
    returns.update(10.0)
    before = returns.rates.copy()
    returns.end(ticket, 9.0, has_returned=True)
    returns.end(-1, 9.0, has_returned=True)
    returns.update(10.0)
    assert (returns.rates == before).all()


def test_hit_density_learns_that_one_kind_of_text_never_comes_back(letters) -> None:
    """Conversations return after 3 requests; between them come texts that are read once. There is room for two."""

    def hits(policy) -> int:
        cache = letters(60, policy)
        talk, n_hit = "a", 0
        for k in range(400):
            if k % 4 == 0:
                talk = talk + "b" if len(talk) < 12 else chr(97 + k % 20)
                n_hit += cache.ask(talk).n_tokens
            else:
                cache.ask(f"{k:04d}once")
        return n_hit

    assert hits(SupersededFirst(HitDensity())) > 1.5 * hits(LRU())


@pytest.mark.parametrize("prefers_long", [True, False])
def test_the_weight_is_tuned_by_what_would_have_saved_most(letters, prefers_long: bool) -> None:
    """Either the long text comes back and recency misleads, or the last one does and FLOPs mislead."""
    policy = TunedFlopAware(bootstrap=3.0)
    cache = letters(70, policy)
    rng = np.random.default_rng(1)
    for k in range(60):
        if prefers_long and k % 5 == 0:
            cache.ask("long" * 8 + "?", keeps_last=k == 0)
        word = "".join(chr(97 + letter) for letter in rng.integers(0, 26, 8))
        cache.ask(word)
        if not prefers_long:
            cache.ask(word + "?", keeps_last=False)
            if k % 9 == 0:
                cache.ask(f"{k:02d}" * 14)
    assert policy.is_tuned
    assert policy.alpha in ALPHAS
    assert (policy.alpha > 0) == prefers_long


def test_time_that_stands_still_orders_by_use() -> None:
    cache = PrefixCache(StateCosts(1, 10, 1.0, 0.0), 24, FlopAware(0.5))
    for first in (1, 2, 3):
        tokens = np.array([first, first], dtype=np.int32)
        match = cache.match("r", tokens, 0.0)
        cache.insert(match, tokens, None, {2: first}, 0.0)
        cache.release(match)
    assert [node.checkpoint for node in cache.contents.tree.nodes() if node.has_checkpoint] == [3, 2]
