"""The SwiGLU MLP."""

from __future__ import annotations

from torch import Tensor, nn

from tilth.kernels import swiglu
from tilth.models.config import ModelConfig
from tilth.models.linear import Linear
from tilth.models.sharding import Cuts


class SwiGLU(nn.Module):
    """down(silu(gate(x)) * up(x)) (Shazeer 2020); gate and up are one matrix, gate's rows first.

    It may be one of n_shards slices of the hidden channels, whose outputs add up to the MLP's.
    """

    def __init__(self, config: ModelConfig, n_shards: int = 1) -> None:
        super().__init__()
        width = config.mlp_width // n_shards
        self.gate_up_proj = Linear(config.d_model, 2 * width)
        self.out_proj = Linear(width, config.d_model)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """(B, T, d_model) -> (B, T, d_model)."""
        return self.out_proj(swiglu(self.gate_up_proj(x_BTD)))

    @classmethod
    def cuts(cls, config: ModelConfig) -> Cuts:
        """How the parameters are cut into slices of hidden channels."""
        width = config.mlp_width
        return {"gate_up_proj.weight": (0, [width, width]), "out_proj.weight": (1, [width])}
