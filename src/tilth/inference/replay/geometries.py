"""The models that a trace can be replayed for: what their states take as they are, and at rest in 8 bits."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tilth.inference.cache.costs import StateCosts, marconi_7b, modern_hybrid

if TYPE_CHECKING:
    from tilth.models.config import ModelConfig

_SCALE_BYTES = 4  # fp32, one for each row of states: a channel of a head


@dataclass(frozen=True)
class Geometry:
    """Costs of a model by name. int8_checkpoint_bytes: a byte for each state and a scale for each row; convolutions stay."""

    name: str
    costs: StateCosts
    int8_checkpoint_bytes: int

    @property
    def int8_costs(self) -> StateCosts:
        """The costs where checkpoints are kept in 8 bits; FLOPs are the same."""
        return dataclasses.replace(self.costs, checkpoint_bytes=self.int8_checkpoint_bytes)

    @classmethod
    def of(cls, name: str, config: ModelConfig) -> Geometry:
        """Of a model of ours, with the dtypes that StateCosts.of counts."""
        costs = StateCosts.of(config)
        n_recurrent = len(config.pattern) - config.pattern.count("A")
        states, rows = config.d_inner * config.d_state, config.d_inner
        return cls(name, costs, costs.checkpoint_bytes - n_recurrent * (4 * states - _int8_bytes(states, rows)))


def _int8_bytes(n_states: int, n_rows: int) -> int:
    return n_states + n_rows * _SCALE_BYTES


def _marconi() -> Geometry:
    """24 layers of 4096 channels with 128 fp16 states each."""
    costs = marconi_7b()
    rows, states = 24 * 4096, 24 * 4096 * 128
    return Geometry("marconi-7b", costs, costs.checkpoint_bytes - 2 * states + _int8_bytes(states, rows))


def _modern() -> Geometry:
    """36 layers of 32 heads x 128 channels with 128 fp32 states each."""
    costs = modern_hybrid()
    rows, states = 36 * 32 * 128, 36 * 32 * 128 * 128
    return Geometry("modern", costs, costs.checkpoint_bytes - 4 * states + _int8_bytes(states, rows))


GEOMETRIES = {"marconi-7b": _marconi(), "modern": _modern()}
