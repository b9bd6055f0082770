"""Packed documents: where a row of tokens goes from one document to the next."""

from __future__ import annotations

import torch
from torch import Tensor


def number_documents(segments_BT: Tensor) -> Tensor:
    """Return 0, 1, 2 ... in order of appearance: an id that comes back later still begins a new document."""
    number_BT = torch.zeros_like(segments_BT, memory_format=torch.contiguous_format)
    number_BT[:, 1:] = (segments_BT[:, 1:] != segments_BT[:, :-1]).cumsum(dim=1)
    return number_BT


def first_tokens(segments_BT: Tensor, reverse: bool = False) -> Tensor:
    """Return True where a document is entered that is not the row's first; with `reverse`, read from the row's end."""
    is_first_BT = torch.zeros_like(segments_BT, dtype=torch.bool)
    changes = segments_BT[:, 1:] != segments_BT[:, :-1]
    if reverse:
        is_first_BT[:, :-1] = changes
    else:
        is_first_BT[:, 1:] = changes
    return is_first_BT
