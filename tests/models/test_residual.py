"""The residual topologies: what each sublayer reads, when sums over ranks begin and end, and what that hides."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

from tilth.models.decoder import Decoder
from tilth.models.residual import Desync, Ladder, Residual, Standard, Sublayer
from tilth.models.tensor_ranks import TensorRanks

ALONE = TensorRanks()
N_SUBLAYERS = 16


def _recorded(read: list[float], factor: float = 2.0) -> Sublayer:
    def sublayer(x: Tensor) -> Tensor:
        read.append(float(x))
        return x * factor

    return sublayer


def test_standard_adds_each_output_to_the_stream_before_the_next_reads_it() -> None:
    read: list[float] = []
    assert float(Standard().run([[_recorded(read)] * 3], torch.tensor(1.0), ALONE)) == 27.0
    assert read == [1.0, 3.0, 9.0]


def test_ladder_reads_the_stream_without_the_output_before() -> None:
    read: list[float] = []
    # outputs 2, 2, 6, 10: the third reads 1 + 2, the fourth 1 + 2 + 2
    assert float(Ladder().run([[_recorded(read)] * 4], torch.tensor(1.0), ALONE)) == 1 + 2 + 2 + 6 + 10
    assert read == [1.0, 1.0, 3.0, 5.0]


def test_ladder_from_a_later_sublayer_begins_with_the_whole_stream() -> None:
    read: list[float] = []
    Ladder(first=2).run([[_recorded(read)] * 4], torch.tensor(1.0), ALONE)
    assert read == [1.0, 3.0, 9.0, 9.0]


def test_desync_keeps_streams_apart_until_they_meet() -> None:
    one: list[float] = []
    other: list[float] = []
    shards = [[_recorded(one, 2.0)] * 3, [_recorded(other, 4.0)] * 3]
    # 1 -> 3 and 5; they meet at (6 + 3/2) + (20 + 5/2) = 30, and after the last at (60 + 15) + (120 + 15)
    assert float(Desync(every=2).run(shards, torch.tensor(1.0), ALONE)) == 210.0
    assert (one, other) == ([1.0, 3.0, 30.0], [1.0, 5.0, 30.0])


@pytest.mark.parametrize("residual", ["ladder", "desync-2x"])
def test_a_model_of_another_topology_is_another_function(make_model: Callable[..., Decoder], residual: str) -> None:
    ranks = 2 if residual == "desync-2x" else 1
    model = make_model("MA", residual=residual, desync_ranks=ranks, n_groups=2)
    ids = torch.randint(0, 43, (1, 12))
    before = model(ids)
    model.residual = Ladder(first=4) if ranks == 1 else Desync(every=1)
    assert (before - model(ids)).abs().max() > 1e-3


def test_ladder_continues_from_states(make_model: Callable[..., Decoder]) -> None:
    model = make_model("MA", residual="ladder")
    ids = torch.randint(0, 43, (1, 12))
    assert (model.prefill(ids, model.empty_states(1)) - model(ids)[:, -1]).abs().max() < 1e-5


@dataclass(frozen=True)
class _Watched(TensorRanks):
    """Two ranks that hold the same, on a wire that takes `seconds`; events are noted in the order they happen."""

    size: int = 2
    seconds: float = 0.0
    events: list[str] = field(default_factory=list)

    def start_sum(self, tensor: Tensor) -> Any:
        tensor.mul_(2)
        return _Sum(self)


class _Sum:
    def __init__(self, ranks: _Watched) -> None:
        self.name = f"{len(ranks.events)}"
        self.ranks = ranks
        ranks.events.append(f"launch {self.name}")
        self.timer = threading.Timer(ranks.seconds, lambda: None)
        self.timer.start()

    def wait(self) -> None:
        self.timer.join()
        self.ranks.events.append(f"wait {self.name}")


class _Work(torch.autograd.Function):
    """A sublayer of known duration in both directions."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, ranks: _Watched) -> Tensor:
        ctx.ranks = ranks
        time.sleep(ranks.seconds)
        ranks.events.append("work")
        return x * 0.5

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        time.sleep(ctx.ranks.seconds)
        ctx.ranks.events.append("work")
        return grad * 0.5, None


def _run(residual: Residual, seconds: float = 0.0) -> tuple[list[str], list[str], float]:
    """Events of the forward and of the backward pass, and the seconds of both."""
    ranks = _Watched(seconds=seconds)
    x = torch.ones(3, requires_grad=True)
    began = time.perf_counter()
    y = residual.run([[lambda x: _Work.apply(x, ranks)] * N_SUBLAYERS], x, ranks)
    n_forward = len(ranks.events)
    y.sum().backward()
    took = time.perf_counter() - began
    return ranks.events[:n_forward], ranks.events[n_forward:], took


def _n_hidden(events: list[str]) -> int:
    """Sums between whose beginning and end a sublayer was computed."""
    names = [event.removeprefix("launch ") for event in events if event.startswith("launch")]
    assert len(names) == N_SUBLAYERS
    return sum("work" in events[events.index(f"launch {name}") : events.index(f"wait {name}")] for name in names)


def test_ladder_hides_all_sums_but_one_each_way() -> None:
    forward, backward, _ = _run(Ladder())
    assert (_n_hidden(forward), _n_hidden(backward)) == (N_SUBLAYERS - 1, N_SUBLAYERS - 1)
    forward, backward, _ = _run(Standard())
    assert (_n_hidden(forward), _n_hidden(backward)) == (0, 0)


def test_desync_makes_half_and_a_quarter_of_the_sums() -> None:
    for every in (2, 4):
        forward, backward, _ = _run(Desync(every))
        assert [sum(event.startswith("launch") for event in events) for events in (forward, backward)] == 2 * [
            N_SUBLAYERS // every
        ]


def test_ladder_is_faster_where_a_sum_takes_as_long_as_a_sublayer() -> None:
    # the shortest of four: a busy machine only adds
    standard, ladder = (min(_run(residual, seconds=0.02)[2] for _ in range(4)) for residual in (Standard(), Ladder()))
    assert standard / ladder > 1.7
