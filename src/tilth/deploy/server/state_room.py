"""What the states of one request may take: the engine's tokens and bytes, before it is asked."""

from __future__ import annotations

from dataclasses import dataclass

from tilth.errors import UserError
from tilth.inference.cache.costs import StateCosts
from tilth.inference.engine.limits import EngineLimits
from tilth.models.config import ModelConfig

SHORTEST_TEXT = 2  # a token that is read and one that is said
ROWS_BESIDE = 3  # the engine keeps room for the states it reads with, begins from, and cuts


@dataclass(frozen=True)
class StateRoom:
    """kv_bytes: keys and values of one token; row_bytes: the recurrent states of one sample. A request may have it all."""

    max_tokens: int
    capacity_bytes: int
    kv_bytes: int
    row_bytes: int

    @classmethod
    def of(cls, config: ModelConfig, itemsize: int, limits: EngineLimits) -> StateRoom:
        """Of a model whose weights have so many bytes each. Raises UserError where not even the shortest text fits."""
        costs = StateCosts.of(config, itemsize)
        room = cls(limits.max_tokens, limits.capacity_bytes, costs.kv_bytes, costs.checkpoint_bytes)
        if room.new_tokens(0, 1) < SHORTEST_TEXT:
            least = SHORTEST_TEXT * room.kv_bytes + (1 + ROWS_BESIDE) * room.row_bytes
            what = f"{room.capacity_bytes:,} bytes of states are too few for this model: one request needs {least:,}"
            fix = f"give it more, such as `--memory {4 * least}`" if limits.max_tokens >= SHORTEST_TEXT else "allow 2 tokens"
            raise UserError(what, "--memory", fix)
        return room

    def new_tokens(self, n_prompt_tokens: int, n_samples: int) -> int:
        """How many tokens each of the samples can say; below 1 where there is no room for one."""
        left = self.max_tokens - n_prompt_tokens
        n_bytes = self.capacity_bytes - self.row_bytes * (n_samples + ROWS_BESIDE) - self.kv_bytes * n_prompt_tokens
        if n_bytes < 0:
            return 0
        return min(left, n_bytes // (self.kv_bytes * n_samples)) if self.kv_bytes else left
