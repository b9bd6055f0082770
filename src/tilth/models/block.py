"""A block: a pre-norm mixer, then a pre-norm MLP unless the config has none."""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from tilth.models.config import ModelConfig
from tilth.models.layout import SequenceLayout
from tilth.models.mixers.attention import Attention
from tilth.models.mixers.mamba2 import Mamba2
from tilth.models.mlp import SwiGLU
from tilth.models.norm import RMSNorm
from tilth.models.residual import Sublayer
from tilth.models.states import AttentionState, Mamba2State

MIXER_CLASSES: dict[str, type[nn.Module]] = {"M": Mamba2, "A": Attention}


class Block(nn.Module):
    """Offers its sublayers; the residual object decides what they read and where their output goes."""

    def __init__(self, letter: str, config: ModelConfig) -> None:
        super().__init__()
        self.mixer_norm = RMSNorm(config.d_model, config.norm_eps)
        self.mixer = MIXER_CLASSES[letter](config)
        self.has_mlp = config.mlp_width > 0
        if self.has_mlp:
            self.mlp_norm = RMSNorm(config.d_model, config.norm_eps)
            self.mlp = SwiGLU(config)

    def sublayers(self, layout: SequenceLayout, state: AttentionState | Mamba2State | None) -> list[Sublayer]:
        """Functions (B, T, D) -> (B, T, D) that normalise their input and return only what is to be added."""
        mix = partial(self._mix, layout=layout, state=state)
        return [mix, self._transform] if self.has_mlp else [mix]

    def _mix(self, x_BTD: Tensor, *, layout: SequenceLayout, state: AttentionState | Mamba2State | None) -> Tensor:
        mixed: Tensor = self.mixer(self.mixer_norm(x_BTD), layout, state)
        return mixed

    def _transform(self, x_BTD: Tensor) -> Tensor:
        transformed: Tensor = self.mlp(self.mlp_norm(x_BTD))
        return transformed
