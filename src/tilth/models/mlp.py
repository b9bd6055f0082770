"""The SwiGLU MLP."""

from __future__ import annotations

from torch import Tensor, nn

from tilth.kernels import swiglu
from tilth.models.config import ModelConfig
from tilth.models.linear import Linear


class SwiGLU(nn.Module):
    """down(silu(gate(x)) * up(x)) (Shazeer 2020); gate and up are one matrix, gate's rows first."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate_up_proj = Linear(config.d_model, 2 * config.mlp_width)
        self.out_proj = Linear(config.mlp_width, config.d_model)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """(B, T, d_model) -> (B, T, d_model)."""
        return self.out_proj(swiglu(self.gate_up_proj(x_BTD)))
