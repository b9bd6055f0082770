"""Both strands of DNA through one model (Schiff et al. 2024, "Caduceus-PS").

Caduceus doubles the channels, [h | RC(h')] with RC turning time and channels round, and every layer treats the two halves
alike, the second turned round. So the two are the rows of x and those of its reverse complement in one batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tilth.errors import RecipeError
from tilth.models.config import ModelConfig
from tilth.models.residual import Sublayer

if TYPE_CHECKING:
    from tilth.models.decoder import Decoder


def reverse_complement(ids_BT: Tensor, config: ModelConfig) -> Tensor:
    """The other strand, read in its own direction."""
    return _complement(config, ids_BT.device)[ids_BT.flip(1)]


def both_strands(ids_BT: Tensor, segments_BT: Tensor | None, config: ModelConfig) -> tuple[Tensor, Tensor | None]:
    """Ids and segments (2B, T): the rows as they are, then their reverse complements."""
    ids_2BT = torch.cat([ids_BT, reverse_complement(ids_BT, config)])
    return ids_2BT, None if segments_BT is None else torch.cat([segments_BT, segments_BT.flip(1)])


def joined_strands(hidden_2BTD: Tensor) -> Tensor:
    """(B, T, 2D): what both strands say about each position, for joined_head."""
    forwards_BTD, backwards_BTD = hidden_2BTD.chunk(2)
    return torch.cat([forwards_BTD, backwards_BTD.flip(1)], -1)


def joined_head(weight_VD: Tensor, config: ModelConfig) -> Tensor:
    """(V, 2D): logits of a token are its own on this strand plus its complement's on the other."""
    return torch.cat([weight_VD, weight_VD[_complement(config, weight_VD.device)]], -1)


def conjoined(model: Decoder, ids_BT: Tensor, segments_BT: Tensor | None = None) -> Tensor:
    """Logits (B, T, V) averaged over both strands: post-hoc conjoining, as Caduceus-PH is used after training.

    Raises RecipeError for a model that this does not suit.
    """
    config = model.config
    if config.complement is None or not config.bidirectional or config.rcps:
        raise RecipeError("only a bidirectional model with a complement and without rcps is conjoined", where="ModelConfig")
    ids_2BT, segments_2BT = both_strands(ids_BT, segments_BT, config)
    own_BTV, other_BTV = model(ids_2BT, segments_2BT).chunk(2)
    return (own_BTV + other_BTV.flip(1)[..., _complement(config, ids_BT.device)]) / 2


def settled(x_2BTD: Tensor, config: ModelConfig) -> Tensor:
    """The stream after all layers with its halves where the norm and the head expect them."""
    return _swap(x_2BTD) if config.rcps_swap and len(config.pattern) % 2 else x_2BTD


def on_swapped(sublayer: Sublayer) -> Sublayer:
    """The sublayer on exchanged halves, as the released Caduceus weights were trained.

    Its fused norm exchanges the two halves of the channels before each layer. Two exchanges are none, so layers
    0, 2, 4... see them exchanged.
    """
    return lambda x_2BTD: _swap(sublayer(_swap(x_2BTD)))


def _swap(x_2BTD: Tensor) -> Tensor:
    """The channel halves exchanged; in rows, each strand's stream takes the other's place, turned round."""
    return torch.cat([half.flip(1, 2) for half in reversed(x_2BTD.chunk(2))])


def _complement(config: ModelConfig, device: torch.device) -> Tensor:
    return torch.tensor(config.complement, device=device)
