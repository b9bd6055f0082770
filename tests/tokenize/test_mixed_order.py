"""A run over several sources: exact shares, each source in an order of its own, the same batch whoever asks."""

from __future__ import annotations

import itertools
import math
import time
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilth.errors import RecipeError, SubsetError
from tilth.tokenize.mixed_order import BLOCK, MixedOrder, sequences_of_block
from tilth.tokenize.mixture import check_repeats
from tilth.tokenize.order import RunOrder

LENGTHS = st.lists(st.integers(0, 40), min_size=1, max_size=25).filter(any)
SOURCES = st.lists(st.tuples(LENGTHS, st.floats(0.01, 1.0)), min_size=1, max_size=4)
ORDERS = st.builds(
    lambda sources, seq_len, batch, seed: MixedOrder(
        [np.array(lengths) for lengths, _ in sources], [weight for _, weight in sources], seq_len, batch, seed
    ),
    SOURCES,
    st.integers(1, 50),
    st.integers(1, 8),
    st.integers(-3, 2**70),
)


@settings(max_examples=25, deadline=None)
@given(weights=st.lists(st.floats(0.01, 5.0), min_size=1, max_size=6), blocks=st.integers(1, 2), seed=st.integers(0, 9))
def test_every_block_has_the_shares_of_the_weights(weights: list[float], blocks: int, seed: int) -> None:
    order = MixedOrder([np.full(500, 9)] * len(weights), weights, 4, BLOCK, seed)
    read = [Counter(order.locate(step, i, 0)[0] for i in range(BLOCK)) for step in range(blocks)]
    assert read == [read[0]] * blocks
    for source, weight in enumerate(weights):
        assert abs(read[0][source] - BLOCK * weight / sum(weights)) < 1 + 1e-9
    # Whole thousandths are met exactly.
    assert sequences_of_block([0.8, 0.2]) == [800, 200]
    assert sequences_of_block([1, 1, 1]) == [334, 333, 333]


def test_the_sources_of_a_block_are_mixed() -> None:
    order = MixedOrder([np.full(500, 9)] * 2, [0.5, 0.5], 4, 50, seed=0)
    shares = [sum(plan.source for plan in order.sequences(step)) / 50 for step in range(40)]
    assert 0.25 < min(shares) < max(shares) < 0.75
    first, second = ([plan.source for step in range(20) for plan in order.sequences(20 * block + step)] for block in range(2))
    assert first != second


@settings(max_examples=60, deadline=None)
@given(
    lengths=LENGTHS, seq_len=st.integers(1, 50), batch=st.integers(1, 5), seed=st.integers(-3, 2**70), step=st.integers(0, 600)
)
def test_a_mixture_of_one_is_the_order_of_that_one(lengths: list[int], seq_len: int, batch: int, seed: int, step: int) -> None:
    alone = RunOrder(np.array(lengths), seq_len, batch, seed)
    mixed = MixedOrder([np.array(lengths)], [0.3], seq_len, batch, seed)
    assert mixed.sequences(step) == alone.sequences(step)
    assert mixed.locate(step, batch - 1, seq_len // 2) == (0, alone.locate(step, batch - 1, seq_len // 2))


@settings(max_examples=60, deadline=None)
@given(order=ORDERS, step=st.integers(0, 2_000))
def test_any_world_size_reads_the_same_batch(order: MixedOrder, step: int) -> None:
    whole = order.sequences(step)
    for world_size in (n for n in range(1, order.global_batch + 1) if order.global_batch % n == 0):
        shares = [order.batch(step, rank, world_size) for rank in range(world_size)]
        assert [plan for share in shares for plan in share] == whole


@settings(max_examples=15, deadline=None)
@given(order=ORDERS)
def test_each_source_is_read_in_its_own_order(order: MixedOrder) -> None:
    """Across the end of a block: no sequence of a source is left out, none comes twice."""
    n_steps = -(-(BLOCK + 50) // order.global_batch)
    found: list[list[object]] = [[] for _ in order.orders]
    for plan in itertools.chain.from_iterable(order.sequences(step) for step in range(n_steps)):
        found[plan.source].append((plan.pieces, plan.epochs))
    for own, plans in zip(order.orders, found, strict=True):
        assert plans == [(own.sequence(k, 0).pieces, own.sequence(k, 0).epochs) for k in range(len(plans))]


@settings(max_examples=40, deadline=None)
@given(order=ORDERS, first_step=st.integers(0, 400))
def test_uses_is_the_inverse_of_locate(order: MixedOrder, first_step: int) -> None:
    n_steps = first_step + 1
    expected = set()
    for sequence in range(order.global_batch):
        for position in range(order.seq_len):
            source, found = order.locate(first_step, sequence, position)
            expected.add((source, found.document, sequence, found.epoch))
    uses = {
        (source, document, use.sequence, use.epoch)
        for source, own in enumerate(order.orders)
        for document in range(len(own.lengths))
        for use in order.uses(source, document, n_steps)
        if use.step == first_step
    }
    assert uses == expected


def test_a_step_depends_on_nothing_that_came_before() -> None:
    lengths = [np.arange(1, 300), np.arange(5, 90)]
    walked = MixedOrder(lengths, [3, 1], 64, 4, seed=5)
    plans = [walked.sequences(step) for step in range(600)]
    for step in (599, 3, 251, 0):
        assert MixedOrder(lengths, [3, 1], 64, 4, seed=5).sequences(step) == plans[step]
    assert walked.sequences(0) == plans[0]
    assert MixedOrder(lengths, [3, 1], 64, 4, seed=6).sequences(0) != plans[0]


def test_sources_of_equal_lengths_are_not_read_in_step() -> None:
    order = MixedOrder([np.full(100, 7)] * 2, [1, 1], 6, 100, seed=0)
    first, second = ([plan.pieces for plan in order.sequences(0) if plan.source == source] for source in (0, 1))
    assert first != second[: len(first)]


@settings(max_examples=60, deadline=None)
@given(order=ORDERS, repeats=st.floats(0.2, 4.0))
def test_the_number_of_steps_within_a_limit_is_exact(order: MixedOrder, repeats: float) -> None:
    possible = int(order.n_steps_within(repeats))

    def is_within(n_steps: int) -> bool:
        read = Counter(plan.source for step in range(n_steps) for plan in order.sequences(step))
        return all(read[source] * order.seq_len <= repeats * own.n_tokens for source, own in enumerate(order.orders))

    if possible <= 60:
        assert is_within(possible)
        assert not is_within(possible + 1)
        check_repeats(order, [str(i) for i in range(len(order.orders))], possible, repeats)
        with pytest.raises(RecipeError, match="max_repeats is"):
            check_repeats(order, [str(i) for i in range(len(order.orders))], possible + 1, repeats)


def test_a_source_that_runs_out_is_refused_with_what_is_possible() -> None:
    order = MixedOrder([np.full(1_000, 100), np.full(10, 100)], [0.8, 0.2], 50, 10, seed=0)
    assert order.n_steps_within(math.inf) == math.inf
    check_repeats(order, ["web", "code"], 500, math.inf)
    possible = int(order.n_steps_within(2))
    assert order.epochs(500) == [2.0, 50.0]
    with pytest.raises(RecipeError) as caught:
        check_repeats(order, ["web", "code"], 500, 2)
    said = str(caught.value)
    assert "500 steps read `code` 50.00 times, and max_repeats is 2" in said
    assert f"Train at most {possible} steps" in said
    assert 15 <= possible <= 25


@pytest.mark.parametrize("weights", [[], [0.0, 1.0], [-1.0, 2.0], [math.nan, 1.0], [math.inf, 1.0], [1e-4, 1.0]])
def test_weights_that_cannot_be_met_are_refused(weights: list[float]) -> None:
    with pytest.raises(RecipeError, match="weight"):
        sequences_of_block(weights)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(RecipeError, match="2 weights for 1 sources"):
        MixedOrder([np.array([5])], [1, 1], 8, 1, seed=0)
    with pytest.raises(RecipeError, match="global batch 0"):
        MixedOrder([np.array([5])], [1], 8, 0, seed=0)
    with pytest.raises(SubsetError, match="no tokens"):
        MixedOrder([np.array([5]), np.array([0])], [1, 1], 8, 1, seed=0)
    with pytest.raises(RecipeError, match="no sequence 6"):
        MixedOrder([np.array([5])], [1], 8, 6, seed=0).locate(0, 6, 0)


def test_millions_of_documents_are_sought_in_microseconds() -> None:
    order = MixedOrder([np.full(1_000_000, 100), np.full(100_000, 100)], [0.9, 0.1], 256, 8, seed=0)
    order.sequences(0)
    began = time.process_time()
    for step in range(1_000):
        order.locate(step * 40, step % 8, step % 256)
    assert time.process_time() - began < 2
    began = time.process_time()
    for document in range(200):
        list(order.uses(0, document, 40_000))
    assert time.process_time() - began < 2
