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
    lengths_B: int32 tokens of each row, the new one included; None where all rows have the same number.
    rotation: cosines and sines of the T positions from the first on, each (T, rotated_dim / 2) fp32, and the row of each
        token (B, T) int32, None where that is its index; None without RoPE. The kernel leaves a head's other channels.
    """

    segments_BT: Tensor | None
    positions_BT: Tensor
    lengths_B: Tensor | None
    rotation: tuple[Tensor, Tensor, Tensor | None] | None


def lay_out(
    config: ModelConfig, ids_BT: Tensor, segments_BT: Tensor | None, start: int, lengths_B: Tensor | None = None
) -> SequenceLayout:
    """The layout of ids_BT; start is the number of tokens that the states already hold, lengths_B of each row if they differ.

    segments_BT (int, same shape) is constant inside one document and changes where a document
    starts. Raises ValueError for a shape that does not fit, segments in the middle of a row, or several tokens for rows
    that differ.
    """
    if lengths_B is not None:
        return _lay_out_one(config, ids_BT, segments_BT, lengths_B)
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
    rows_BT = None if segments_BT is None else positions_BT.to(torch.int32)
    return SequenceLayout(segments_BT, positions_BT, None, _rotation(config, index_T, rows_BT))


def _lay_out_one(config: ModelConfig, ids_B1: Tensor, segments_B1: Tensor | None, lengths_B: Tensor) -> SequenceLayout:
    """One more token for each row, at a place of its own."""
    if ids_B1.shape[1] != 1 or segments_B1 is not None:
        raise ValueError(f"rows of different lengths read one token at a time, without segments; got {tuple(ids_B1.shape)}")
    rows_B1 = torch.arange(len(lengths_B), device=lengths_B.device, dtype=torch.int32).unsqueeze(1)
    return SequenceLayout(None, lengths_B.long().unsqueeze(1), lengths_B + 1, _rotation(config, lengths_B, rows_B1))


def _renumber(segments_BT: Tensor, index_T: Tensor) -> tuple[Tensor, Tensor]:
    starts_BT = torch.ones_like(segments_BT, dtype=torch.bool)
    starts_BT[:, 1:] = segments_BT[:, 1:] != segments_BT[:, :-1]
    numbers_BT = starts_BT.cumsum(1, dtype=torch.int32)
    first_BT = torch.where(starts_BT, index_T, 0).cummax(1).values
    return numbers_BT, index_T - first_BT


def _rotation(config: ModelConfig, index_T: Tensor, rows_BT: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None] | None:
    """The rotations of the positions index_T, and which of them each token takes."""
    if config.rope_theta is None or "A" not in config.pattern:
        return None
    # fp64: in fp32 an angle at position 100,000 is off by 0.004; no buffer, which would follow the model into bf16
    angles_TR = index_T[:, None] * frequencies(config.rope_theta, config.rotated_dim // 2, config.rope_scaling, index_T.device)
    return angles_TR.cos().float(), angles_TR.sin().float(), rows_BT


def pairs_read(layout: SequenceLayout, causal: bool = True) -> Tensor:
    """Whether token t reads token s, bool (1 or B, 1, T, T): one of its own document, and not a later one where causal."""
    n_tokens, device = layout.positions_BT.shape[1], layout.positions_BT.device
    pairs_B1TT = torch.ones(1, 1, n_tokens, n_tokens, dtype=torch.bool, device=device)
    if layout.segments_BT is not None:
        pairs_B1TT = (layout.segments_BT[:, :, None] == layout.segments_BT[:, None, :]).unsqueeze(1)
    return pairs_B1TT.tril() if causal else pairs_B1TT
