"""One vector for a document: of its tokens' hidden states the mean, the last, or the mean of its echo."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from tilth.models.config import ModelConfig


def pooled(hidden: Callable[[Tensor, Tensor], Tensor], ids_BT: Tensor, lengths_B: Tensor, config: ModelConfig) -> Tensor:
    """(B, d_model) for documents that are the first lengths_B tokens, at least one, of their rows; padding plays no part.

    "echo" reads the document twice and takes the mean over the second copy, whose tokens have all seen the whole
    (Springer et al. 2024, "Repetition improves language model embeddings"; so HybriDNA classifies). With rcps, whose
    pooling is always "mean", both strands are averaged, so that the other strand gives the same vector.
    """
    place_1T = torch.arange(ids_BT.shape[1] * (2 if config.pooling == "echo" else 1), device=ids_BT.device).unsqueeze(0)
    first_B1, end_B1 = torch.zeros_like(lengths_B).unsqueeze(1), lengths_B.unsqueeze(1)
    if config.pooling == "echo":
        ids_BT = ids_BT.gather(1, place_1T % end_B1)
        first_B1, end_B1 = end_B1, 2 * end_B1
    elif config.pooling == "last":
        first_B1 = end_B1 - 1
    # padding is a document of its own: neither attention nor convolution nor state reaches over from it
    hidden_BTD = hidden(ids_BT, (place_1T >= end_B1).int())
    is_taken_BT1 = ((place_1T >= first_B1) & (place_1T < end_B1)).unsqueeze(-1)
    mean_BD = torch.where(is_taken_BT1, hidden_BTD, 0.0).sum(1, dtype=torch.promote_types(hidden_BTD.dtype, torch.float32)) / (
        end_B1 - first_B1
    )
    return (mean_BD.chunk(2, -1)[0] + mean_BD.chunk(2, -1)[1]) / 2 if config.rcps else mean_BD
