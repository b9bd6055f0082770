"""What a request finds and leaves, case by case."""

from __future__ import annotations

import numpy as np
import pytest

from tilth.errors import UserError
from tilth.inference.cache.admission import AS_PUBLISHED, Admission
from tilth.inference.cache.costs import StateCosts
from tilth.inference.cache.policies.lru import LRU
from tilth.inference.cache.prefix_cache import PrefixCache
from tilth.inference.engine.requests import MissReason


def test_a_conversation_goes_on_from_its_last_token(letters) -> None:
    cache = letters(1000)
    assert cache.ask("hello ", "you").n_tokens == 0
    match = cache.ask("hello you there", "!")
    assert (match.n_tokens, match.checkpoint, match.cut) == (9, "hello you", None)


def test_a_branch_point_is_found_at_the_second_request_and_pays_at_the_third(letters) -> None:
    cache = letters(1000)
    cache.ask("system: a", "1")
    second = cache.ask("system: b", "2")
    assert (second.n_tokens, second.n_known, second.cut) == (0, 8, 8)
    assert second.miss_reason == MissReason.NO_STATE
    third = cache.ask("system: c", "3")
    assert (third.n_tokens, third.checkpoint, third.cut) == (8, "system: ", None)
    assert cache.states == {"system: ", "system: a1", "system: b2", "system: c3"}


def test_a_request_meets_one_that_is_still_being_written(letters) -> None:
    cache = letters(1000)
    first = cache.match("base", cache.tokens("system: a"), 1.0)
    cache.insert(first, cache.tokens("system: a"), None, {}, 1.0)  # read, not yet written
    assert cache.ask("system: b").cut == 8
    cache.insert(first, cache.tokens("system: a and so on"), None, {19: "last"}, 2.0)
    cache.release(first)
    assert cache.states == {"system: ", "system: b", "last"}


def test_the_last_token_is_always_read(letters) -> None:
    cache = letters(1000)
    cache.ask("abcd")
    again = cache.ask("abcd")
    assert (again.n_tokens, again.n_known, again.cut, again.miss_reason) == (0, 4, 3, MissReason.NO_STATE)
    third = cache.ask("abcd")
    assert (third.n_tokens, third.miss_reason) == (3, MissReason.NONE)


def test_roots_never_meet(letters) -> None:
    cache = letters(1000)
    cache.ask("secret: 1", root="a")
    other = cache.ask("secret: 1 2", root="b")
    assert (other.n_tokens, other.n_known, other.cut, other.miss_reason) == (0, 0, None, MissReason.NO_PREFIX)
    assert cache.stats.by_root["b"].n_asked == 11
    cache.clear("a")
    assert (cache.ask("secret: 1 2 3", root="a").n_known, cache.ask("secret: 1 2 3", root="b").n_tokens) == (0, 11)


def test_an_evicted_prefix_is_told_and_its_branch_point_found_again(letters) -> None:
    cache = letters(30, LRU(), admission=Admission())
    cache.ask("abcdef")
    cache.ask("uvwxyz")  # 16 bytes each: the first one goes
    assert cache.states == {"uvwxyz"}
    match = cache.ask("abcxyz")
    assert (match.n_known, match.cut, match.miss_reason) == (0, 3, MissReason.EVICTED)
    as_published = letters(30, LRU(), admission=AS_PUBLISHED)
    as_published.ask("abcdef")
    as_published.ask("uvwxyz")
    assert as_published.ask("abcxyz").cut is None


def test_going_on_from_the_end_of_what_was_evicted_is_no_branch(letters) -> None:
    cache = letters(30, LRU(), admission=Admission())
    cache.ask("abcdef")
    cache.ask("uvwxyz")
    match = cache.ask("abcdef and more")
    assert (match.cut, match.miss_reason) == (None, MissReason.EVICTED)


def test_what_cannot_fit_is_not_kept_and_nothing_goes_for_it(letters) -> None:
    cache = letters(40)
    cache.ask("abcdef")
    big = cache.ask("x" * 41)
    assert big.n_held == 0
    assert cache.states == {"abcdef"}
    # the keys and the state up to a branch point do fit
    assert cache.ask("abc" + "y" * 40).n_held == 3
    assert cache.states == {"abc", "abcdef"}


def test_a_state_that_is_read_stays_until_the_prefill_is_inserted(letters) -> None:
    cache = letters(30)
    cache.ask("abcdef")
    match = cache.match("base", cache.tokens("abcdefg"), 9.0)
    assert not cache.reserve(30)
    assert cache.reserve(14)
    assert match.checkpoint == "abcdef"
    cache.insert(match, cache.tokens("abcdef"), None, {}, 9.0)
    assert cache.reserve(10)  # the state itself may go now, its keys may not
    assert (cache.states, cache.kv_bytes, cache.reserved_bytes) == (set(), 6, 24)
    cache.release(match)
    assert cache.reserve(6)
    cache.give_back(30)
    with pytest.raises(ValueError, match="given back"):
        cache.give_back(1)


def test_slots_of_two_that_read_the_same_are_kept_once() -> None:
    freed: list[int] = []
    cache = PrefixCache(StateCosts(1, 10, 1.0, 0.0), 100, LRU(), lambda slots: freed.extend(slots.tolist()))
    tokens = np.arange(4, dtype=np.int32)
    one, two = cache.match("r", tokens, 1.0), cache.match("r", tokens, 1.0)
    assert cache.insert(one, tokens, np.array([0, 1, 2, 3], np.int32), {}, 1.0).tolist() == [0, 1, 2, 3]
    assert cache.insert(two, tokens, np.array([4, 5, 6, 7], np.int32), {}, 1.0).tolist() == [0, 1, 2, 3]
    assert freed == [4, 5, 6, 7]
    longer = np.append(tokens, 9).astype(np.int32)
    assert cache.insert(two, longer, np.array([0, 1, 2, 3, 8], np.int32), {5: "s"}, 2.0).tolist() == [0, 1, 2, 3, 8]
    cache.release(one)
    cache.release(two)
    cache.clear()
    assert sorted(freed) == list(range(9))


def test_no_more_checkpoints_on_a_path_than_allowed_but_branch_points_stay(letters) -> None:
    cache = letters(1000, admission=Admission(max_checkpoints_per_path=2))
    text = "begin"
    for turn in "abcd":
        cache.ask(text, turn)
        text += turn + "?"
    assert cache.states == {"begina?b?c", "begina?b?c?d"}


def test_without_recurrent_layers_any_known_token_will_do() -> None:
    cache = PrefixCache(StateCosts(1, 0, 1.0, 0.0), 100)
    tokens = np.arange(8, dtype=np.int32)
    match = cache.match("r", tokens, 1.0)
    cache.insert(match, tokens, tokens, {}, 1.0)
    cache.release(match)
    match = cache.match("r", np.array([0, 1, 2, 9], np.int32), 2.0)
    assert (match.n_tokens, match.slots.tolist(), match.cut) == (3, [0, 1, 2], None)


def test_what_is_asked_wrongly_is_refused(letters) -> None:
    with pytest.raises(UserError, match="cannot hold"):
        letters(-1)
    cache = letters(100)
    cache.ask("abcd")
    match = cache.match("base", cache.tokens("abcde"), 2.0)
    with pytest.raises(ValueError, match="differ"):
        cache.insert(match, cache.tokens("xbcde"), None, {}, 2.0)
    cache.release(match)
    with pytest.raises(ValueError, match="released"):
        cache.insert(match, cache.tokens("abcde"), None, {}, 2.0)
