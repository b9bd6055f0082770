"""A recurrent mixer that reads both ways (Schiff et al. 2024, "Caduceus", BiMamba)."""

from __future__ import annotations

from torch import Tensor, nn

from tilth.models.config import ModelConfig
from tilth.models.layout import SequenceLayout
from tilth.models.mixers.mamba1 import Mamba1
from tilth.models.mixers.mamba2 import Mamba2


class Bidirectional(nn.Module):
    """out_proj(forwards(in_proj(x)) + backwards(in_proj(x))): the projections, most of the parameters, are shared.

    Caduceus projects out of both and adds; adding first is the same, for one product less.
    """

    def __init__(self, mixer_class: type[Mamba1] | type[Mamba2], config: ModelConfig, n_shards: int = 1) -> None:
        super().__init__()
        self.forwards = mixer_class(config, n_shards)
        self.backwards = mixer_class(config, n_shards, projections=False)

    def forward(self, x_BTD: Tensor, layout: SequenceLayout, state: None = None) -> Tensor:
        """(B, T, d_model) -> (B, T, d_model)."""
        rows_BTR = self.forwards.in_proj(x_BTD)
        y_BTI = self.forwards.mix(rows_BTR, layout) + self.backwards.mix(rows_BTR, layout, reverse=True)
        return self.forwards.out_proj(y_BTI)
