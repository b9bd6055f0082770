"""What objectives share of which a sequence is one whole document: rows without their padding, and documents that do not fit."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from tilth.errors import RecipeError
from tilth.models.decoder import Decoder
from tilth.tokenize.mixture import TokenMixture
from tilth.trainer.data import Batch


def loss_of_documents(model: Decoder, batch: Batch, each_BT: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Cross entropy (sum, count) of the targets of padded documents; `each_BT` is filled with that of each target."""
    ids_BT = trimmed(batch)[0]
    n = ids_BT.shape[1]
    each_Bn = None if each_BT is None else torch.empty_like(each_BT[:, :n])
    loss, count = model.loss(ids_BT, batch[1][:, :n], batch[2][:, :n], each_Bn)
    if each_BT is not None and each_Bn is not None:
        each_BT.zero_()[:, :n] = each_Bn
    return loss, count


def trimmed(batch: Batch) -> tuple[Tensor, Tensor]:
    """Ids up to the longest document's end, to a power of two, so that compiled layers meet few widths; and lengths."""
    ids_BT, _, is_padding_BT, *_ = batch
    lengths_B = (is_padding_BT == 0).sum(1)
    return ids_BT[:, : 1 << (int(lengths_B.max()) - 1).bit_length()], lengths_B


def refuse_documents(tokens: TokenMixture, name: str, are_unfit: np.ndarray, why: str, fix: str) -> None:
    """Raise RecipeError where there are unfit documents in the source `name`: how many, and where the first one is."""
    if not are_unfit.any():
        return
    own = tokens.sets[tokens.names.index(name)]
    first = own.rows([int(are_unfit.argmax())]).to_pylist()[0]
    what = f"{int(are_unfit.sum()):,} of {own.n_documents:,} documents of `{name}` {why}"
    raise RecipeError(what, f"{first['shard']} row {first['row']}, the first of them", fix)
