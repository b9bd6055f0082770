"""A block: a pre-norm mixer, then a pre-norm MLP unless the config has none."""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from tilth.models.config import ModelConfig
from tilth.models.layout import SequenceLayout
from tilth.models.mixers.attention import Attention
from tilth.models.mixers.bidirectional import Bidirectional
from tilth.models.mixers.discrete_mamba2 import DiscreteMamba2
from tilth.models.mixers.mamba1 import Mamba1
from tilth.models.mixers.mamba2 import Mamba2
from tilth.models.mlp import SwiGLU
from tilth.models.norm import RMSNorm
from tilth.models.residual import Sublayer
from tilth.models.states import MixerState

RECURRENT: dict[str, type[Mamba1] | type[Mamba2]] = {"M": Mamba2, "S": Mamba1, "D": DiscreteMamba2}


class Block(nn.Module):
    """Offers its sublayers; the residual object decides what they read and where their output goes.

    It may be one of n_shards slices, whose sublayers' outputs add up to the block's.
    """

    def __init__(self, letter: str, config: ModelConfig, n_shards: int = 1) -> None:
        super().__init__()
        self.mixer_norm = RMSNorm(config.d_model, config.norm_eps)
        self.mixer = make_mixer(letter, config, n_shards)
        self.has_mlp = config.mlp_width > 0
        if self.has_mlp:
            self.mlp_norm = RMSNorm(config.d_model, config.norm_eps)
            self.mlp = SwiGLU(config, n_shards)

    def sublayers(self, layout: SequenceLayout, state: MixerState | None) -> list[Sublayer]:
        """Functions (B, T, D) -> (B, T, D) that normalise their input and return only what is to be added."""
        mix = partial(self._mix, layout=layout, state=state)
        return [mix, self._transform] if self.has_mlp else [mix]

    def _mix(self, x_BTD: Tensor, *, layout: SequenceLayout, state: MixerState | None) -> Tensor:
        mixed: Tensor = self.mixer(self.mixer_norm(x_BTD), layout, state)
        return mixed

    def _transform(self, x_BTD: Tensor) -> Tensor:
        transformed: Tensor = self.mlp(self.mlp_norm(x_BTD))
        return transformed


def make_mixer(letter: str, config: ModelConfig, n_shards: int = 1) -> nn.Module:
    """The mixer of a letter of a pattern, freshly drawn, or one of n_shards slices of it."""
    if letter == "A":
        return Attention(config, n_shards)
    mixer_class = RECURRENT[letter]
    return Bidirectional(mixer_class, config, n_shards) if config.bidirectional else mixer_class(config, n_shards)
