"""Where each token stands: its document inside the row, its position in it, and the rotations that follow."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tilth.models.config import ModelConfig
from tilth.models.rotary import frequencies


@dataclass(frozen=True)
class SequenceLayout:
    """What all layers of one pass share.

    segments_BT: int32 document number inside the row, rising; None = one document per row.
    positions_BT: int64 position inside the document, (1, T) when all rows agree.
    rotation: cosines and sines of the T positions from the first on, each (T, rotated_dim / 2) fp32, and the row of each
        token (B, T) int32, None where that is its index; None without RoPE. The kernel leaves a head's other channels.
    """

    segments_BT: Tensor | None
    positions_BT: Tensor
    rotation: tuple[Tensor, Tensor, Tensor | None] | None


def lay_out(config: ModelConfig, ids_BT: Tensor, segments_BT: Tensor | None, start: int) -> SequenceLayout:
    """The layout of ids_BT; start is the number of tokens that the states already hold.

    segments_BT (int, same shape) is constant inside one document and changes where a document
    starts. Raises ValueError for a shape that does not fit, or segments in the middle of a row.
    """
    n_tokens = ids_BT.shape[1]
    index_T = torch.arange(start, start + n_tokens, device=ids_BT.device)
    positions_BT = index_T.unsqueeze(0)
    if segments_BT is not None:
        if segments_BT.shape != ids_BT.shape or start:
            raise ValueError(
                f"segments {tuple(segments_BT.shape)} must have the shape of the ids {tuple(ids_BT.shape)} "
                "and belong to a row read from its start"
            )
        # renumbered, because an id may come back later in the row and must not see its namesake
        segments_BT, positions_BT = _renumber(segments_BT, index_T)
    rotation = None
    if config.rope_theta is not None and "A" in config.pattern:
        rows_BT = None if segments_BT is None else positions_BT.to(torch.int32)
        turns_R = frequencies(config.rope_theta, config.rotated_dim // 2, config.rope_scaling, ids_BT.device)
        rotation = (*_rotation_tables(turns_R, index_T), rows_BT)
    return SequenceLayout(segments_BT, positions_BT, rotation)


def _renumber(segments_BT: Tensor, index_T: Tensor) -> tuple[Tensor, Tensor]:
    starts_BT = torch.ones_like(segments_BT, dtype=torch.bool)
    starts_BT[:, 1:] = segments_BT[:, 1:] != segments_BT[:, :-1]
    numbers_BT = starts_BT.cumsum(1, dtype=torch.int32)
    first_BT = torch.where(starts_BT, index_T, 0).cummax(1).values
    return numbers_BT, index_T - first_BT


def _rotation_tables(frequencies_R: Tensor, index_T: Tensor) -> tuple[Tensor, Tensor]:
    # fp64: in fp32 an angle at position 100,000 is off by 0.004; no buffer, which would follow the model into bf16
    angles_TR = index_T[:, None] * frequencies_R
    return angles_TR.cos().float(), angles_TR.sin().float()
