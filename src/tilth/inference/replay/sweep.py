"""sweep: a trace through every contender at every capacity; a cell is one replay, in plain numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from tilth.errors import UserError
from tilth.inference.replay.contenders import INT8, contender
from tilth.inference.replay.geometries import Geometry
from tilth.inference.replay.replay import ReplayResult, Server, replay
from tilth.inference.replay.request import TraceRequest


@dataclass(frozen=True)
class Cell:
    """One policy at one capacity. Rates are shares of input tokens and of the prefill's FLOPs; times are in seconds."""

    policy: str
    capacity_bytes: int
    token_hit_rate: float
    flop_hit_rate: float
    first_token_p50: float
    first_token_p95: float
    high_water_bytes: int
    n_evictions: int
    cpu_seconds: float

    @classmethod
    def of(cls, policy: str, capacity_bytes: int, result: ReplayResult) -> Cell:
        """The numbers of a result that a table has room for."""
        rates = result.token_hit_rate, result.flop_hit_rate
        times = result.seconds_to_first(50), result.seconds_to_first(95)
        return cls(policy, capacity_bytes, *rates, *times, result.high_water_bytes, result.n_evictions, result.cpu_seconds)


Tell = Callable[[str], None]


def sweep(
    requests: Sequence[TraceRequest],
    geometry: Geometry,
    capacities: Iterable[int],
    policies: Iterable[str],
    server: Server | None = None,
    *,
    is_instant: bool = False,
    tell: Tell | None = None,
) -> list[Cell]:
    """A cell for each capacity (bytes) and policy, capacities outside; `tell` hears of each that is done.

    A policy is the name of a contender, or that of one of ours and "+int8".

    Raises UserError for an unknown policy or a capacity below 1 byte.
    """
    chosen = {name: contender(name) for name in policies}
    cells = []
    for capacity in capacities:
        if capacity < 1:
            raise UserError(f"a cache cannot hold {capacity} bytes", "--capacity", "Give a size such as 5GB.")
        for name, one in chosen.items():
            costs = geometry.int8_costs if name.endswith(INT8) else geometry.costs
            cells.append(
                Cell.of(name, capacity, replay(requests, one.make(costs, capacity), costs, server, is_instant=is_instant))
            )
            if tell:
                tell(f"{name} at {capacity / 1e9:g} GB: {cells[-1].token_hit_rate:.1%} of tokens")
    return cells
