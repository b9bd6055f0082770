"""Requests of a few tokens, and costs with round numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from tilth.inference.cache.costs import StateCosts
from tilth.inference.replay.request import TraceRequest

MakeRequest = Callable[..., TraceRequest]


@pytest.fixture
def costs() -> StateCosts:
    """A byte a token, ten a checkpoint; a FLOP a token and none for pairs, so that FLOPs are tokens."""
    return StateCosts(kv_bytes=1, checkpoint_bytes=10, token_flops=1.0, pair_flops=0.0)


@pytest.fixture
def request_of() -> MakeRequest:
    """request_of(arrival, input tokens, output tokens)."""

    def make(arrival: float, input_N: Sequence[int], output_M: Sequence[int] = ()) -> TraceRequest:
        return TraceRequest(arrival, np.array(input_N, dtype=np.int32), np.array(output_M, dtype=np.int32))

    return make
