"""The selector follows the traffic, costs no promise, and decides by its calls alone."""

from __future__ import annotations

import numpy as np
import pytest

from tilth.errors import UserError
from tilth.inference.cache.costs import StateCosts
from tilth.inference.cache.policies.flop_aware import FlopAware
from tilth.inference.cache.policies.lru import LRU
from tilth.inference.cache.prefix_cache import PrefixCache
from tilth.inference.cache.selector import Selector

ARMS = (LRU, lambda: FlopAware(2.0))


def long_texts_return(cache, n: int, seed: int) -> int:
    """Three long texts come back among short ones that never do: an order by recency loses them. Returns the hits."""
    rng, n_hit = np.random.default_rng(seed), 0
    for k in range(n):
        cache.ask("".join(chr(97 + letter) for letter in rng.integers(0, 26, 8)))
        if k % 2 == 0:
            n_hit += cache.ask(f"{k // 2 % 3}" * 30 + "?", keeps_last=k < 6).n_tokens
    return n_hit


def test_it_changes_to_the_order_that_saves_more(letters) -> None:
    policy = Selector(ARMS, half_life=20)
    cache = letters(160, policy)
    assert policy.arm == "lru"
    n_hit = long_texts_return(cache, 200, 0)
    assert policy.arm == "flop-aware(2)"
    assert cache.stats.arm == "flop-aware(2)"
    alone = [long_texts_return(letters(160, make()), 200, 0) for make in ARMS]
    assert alone[0] < 0.5 * alone[1]
    assert n_hit > 0.7 * alone[1]


def test_it_stays_where_nothing_is_gained(letters) -> None:
    policy = Selector(ARMS, half_life=20)
    cache = letters(10_000, policy)
    long_texts_return(cache, 100, 0)
    assert policy.arm == "lru"
    assert policy.saved[0] == policy.saved[1] > 0


def test_the_same_calls_choose_the_same(letters) -> None:
    def run():
        policy = Selector(half_life=20)
        cache = letters(160, policy)
        return long_texts_return(cache, 100, 3), policy.saved, cache.states, cache.stats.evictions

    assert run() == run()


def test_a_shadow_does_what_its_order_alone_would_do(letters) -> None:
    policy = Selector((LRU, FlopAware), half_life=20)
    cache, alone = letters(160, policy), letters(160, LRU(), admission=policy.admission)
    long_texts_return(cache, 60, 1)
    long_texts_return(alone, 60, 1)
    assert policy.shadows[0].saved_flops == alone.stats.saved_flops
    assert policy.shadows[0].cache.ledger == alone.ledger


def test_a_large_cache_is_sampled_by_conversation_and_its_shadows_are_small(letters) -> None:
    policy = Selector(share=0.25)
    cache = letters(1_000_000, policy)
    assert {shadow.cache.capacity_bytes for shadow in policy.shadows} == {250_000}
    for k in range(400):
        cache.ask(f"{k:03d}" * 400)
    seen = policy.shadows[0].cache.stats
    n_sampled = seen.n_matches
    assert 60 <= n_sampled <= 140
    # a conversation is sampled whole: what follows its first 1024 tokens changes nothing
    for k in range(400):
        cache.ask(f"{k:03d}" * 400 + "?")
    assert seen.n_matches == 2 * n_sampled
    assert seen.n_hit >= 1200 * n_sampled


@pytest.mark.parametrize("capacity", [1_000_000, 2_500], ids=["nothing is evicted", "much is evicted"])
def test_a_short_conversation_is_sampled_whole(letters, capacity: int) -> None:
    """Turn after turn, through a system prompt that all of them share."""
    policy, n_talks = Selector(share=0.25), 400
    cache, texts = letters(capacity, policy), ["system " * 4 + f"{k:03d}" for k in range(n_talks)]
    sampled: list[list[int]] = [[] for _ in texts]
    for turn in range(4):
        for k, text in enumerate(texts):
            before = policy.shadows[0].cache.stats.n_matches
            cache.ask(text, f"answer{k}")
            sampled[k].append(policy.shadows[0].cache.stats.n_matches - before)
            texts[k] = f"{text}answer{k} and {turn}"
    assert {tuple(turns) for turns in sampled} == {(0,) * 4, (1,) * 4}
    assert 60 <= sum(turns[0] for turns in sampled) <= 140
    assert bool(cache.n_evicted) == (capacity < 1_000_000)


@pytest.mark.parametrize("costs", [StateCosts(1000, 0, 1.0, 0.1), StateCosts(0, 1000, 1.0, 0.1), StateCosts(1000, 10, 1.0, 0.1)])
def test_a_shadow_holds_about_as_many_entries_whatever_they_are(costs: StateCosts) -> None:
    policy, entry = Selector(), costs.size_bytes(1024, 1)
    PrefixCache(costs, 2048 * entry, policy)
    assert policy.share == 0.25
    assert policy.shadows[0].cache.capacity_bytes == 512 * entry


def test_a_shadow_may_know_more_than_the_cache_has_read_at_its_cut() -> None:
    rng, policy = np.random.default_rng(1), Selector()
    cache, n_deeper = PrefixCache(StateCosts(1, 10, 1.0, 0.1), int(rng.integers(60, 300)), policy), 0
    for now in range(300):
        tokens = np.array([0, *rng.integers(0, 3, rng.integers(1, 14))], dtype=np.int32)
        match = cache.match("base", tokens, now)
        if match.cut is not None:
            n_deeper += any(shadow._followed[id(match)].n_tokens > match.cut for shadow in policy.shadows)
            cache.insert(match, tokens[: match.cut], None, {match.cut: "cut"}, now)
        cache.insert(match, tokens, None, {len(tokens): "end"}, now)
        cache.release(match)
        assert all(shadow.cache.ledger == shadow.cache.recount() for shadow in policy.shadows)
    assert n_deeper


def test_what_is_cleared_is_cleared_from_the_shadows(letters) -> None:
    policy = Selector()
    cache = letters(1000, policy)
    cache.ask("hello", root="a")
    cache.ask("hello", root="b")
    cache.clear("a")
    assert {shadow.cache.checkpoint_bytes for shadow in policy.shadows} == {cache.checkpoint_bytes} == {10}
    cache.clear()
    assert {shadow.cache.used_bytes for shadow in policy.shadows} == {0}


def test_what_is_reserved_is_not_the_shadows_either(letters) -> None:
    policy = Selector()
    cache = letters(1000, policy)
    assert cache.reserve(300)
    assert {shadow.cache.reserved_bytes for shadow in policy.shadows} == {300}
    cache.give_back(100)
    assert {shadow.cache.reserved_bytes for shadow in policy.shadows} == {200}


def test_one_selector_for_one_cache(letters) -> None:
    policy = Selector()
    letters(100, policy)
    with pytest.raises(UserError, match="orders one cache"):
        letters(100, policy)
