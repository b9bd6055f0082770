"""The selector follows the traffic, costs no promise, and decides by its calls alone."""

from __future__ import annotations

import numpy as np
import pytest

from tilth.errors import UserError
from tilth.inference.cache.policies.flop_aware import FlopAware
from tilth.inference.cache.policies.lru import LRU
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


def test_a_shadow_may_know_more_than_the_cache_has_read_at_its_cut(letters) -> None:
    rng, policy = np.random.default_rng(1), Selector()
    cache, n_deeper = letters(int(rng.integers(60, 300)), policy), 0
    for _ in range(60):
        text = "s" + "".join(rng.choice(list("abc"), rng.integers(1, 14)))
        match = cache.ask(text)
        own = [shadow.cache.stats.n_hit for shadow in policy.shadows]
        n_deeper += match.cut is not None and max(own) > cache.stats.n_hit
        for shadow in policy.shadows:
            assert shadow.cache.ledger == shadow.cache.recount()
    assert n_deeper > 5


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
