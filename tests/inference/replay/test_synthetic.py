"""Made traces are the same for the same seed, and have the published statistics of what they imitate."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from tilth.errors import UserError
from tilth.inference.replay.synthetic import KEPT_OBSERVATIONS, WORKLOADS, synthetic_trace


def shared(first_N: np.ndarray, second_N: np.ndarray) -> int:
    n = min(len(first_N), len(second_N))
    return int(np.argmax(np.append(first_N[:n] != second_N[:n], True)))


@pytest.mark.parametrize("name", WORKLOADS)
def test_a_seed_is_a_trace(name: str) -> None:
    one, same, other = (synthetic_trace(name, seed=seed, n_sessions=3) for seed in (1, 1, 2))
    assert len(one) == len(same)
    assert all(np.array_equal(a.all_tokens(), b.all_tokens()) and a.arrival == b.arrival for a, b in zip(one, same))
    assert not np.array_equal(one[0].input_N[-50:], other[0].input_N[-50:])
    assert all(before.arrival <= after.arrival for before, after in itertools.pairwise(one))


@pytest.mark.parametrize(
    ("name", "n_requests", "mean_input"), [("lmsys", 1310, 2131), ("sharegpt", 1582, 3846), ("swebench", 817, 10_975)]
)
def test_sizes_are_those_of_the_source(name: str, n_requests: int, mean_input: int) -> None:
    traces = [synthetic_trace(name, seed=seed) for seed in range(3)]
    assert np.mean([len(trace) for trace in traces]) == pytest.approx(n_requests, rel=0.15)
    assert np.mean([len(request.input_N) for trace in traces for request in trace]) == pytest.approx(mean_input, rel=0.15)


def test_a_turn_of_a_chat_reads_all_before_it() -> None:
    trace = synthetic_trace("lmsys", n_sessions=1)
    for before, after in itertools.pairwise(trace):
        assert shared(before.all_tokens(), after.input_N) == before.n_tokens
        assert after.arrival > before.arrival


def test_an_agent_departs_from_its_last_prompt_where_a_collapse_begins() -> None:
    trace = synthetic_trace("swebench", n_sessions=1)
    assert shared(trace[0].all_tokens(), trace[1].input_N) == trace[0].n_tokens
    late = KEPT_OBSERVATIONS + 3
    assert shared(trace[late].all_tokens(), trace[late + 1].input_N) < len(trace[late].input_N)


def test_sessions_come_as_often_as_they_are_asked_to() -> None:
    slow, fast = (synthetic_trace("lmsys", rate, seed=3)[-1].arrival for rate in (0.5, 2.0))
    assert fast < slow


def test_what_cannot_be_made_is_refused() -> None:
    with pytest.raises(UserError, match="no synthetic trace `lmsy`"):
        synthetic_trace("lmsy")
    with pytest.raises(UserError, match="cannot come"):
        synthetic_trace("lmsys", 0.0)
