"""One pass of a decoder whose rows belong to tenants: what its modules compute with instead of what they hold.

A module's own attribute is found before its parameter or its method of that name, so the model is not changed, and is the
base again as soon as the attributes are gone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding

from tilth.inference.tenants.stacks import Places, TermStack
from tilth.inference.tenants.weights import ChangedRows
from tilth.kernels import linear
from tilth.models.decoder import Decoder

Replacement = tuple[nn.Module, str, Any]


@contextmanager
def replaced(replacements: Sequence[Replacement]) -> Iterator[None]:
    """Inside, each module has that value under that name."""
    for module, name, value in replacements:
        vars(module)[name] = value
    try:
        yield
    finally:
        for module, name, _ in replacements:
            del vars(module)[name]


@dataclass(frozen=True)
class Product:
    """The forward of a linear layer: the base's product over all rows, and then each row's terms.

    terms: each stack that has some, with where the rows have theirs.
    """

    weight_NK: Tensor
    terms: list[tuple[TermStack, Places]]

    def __call__(self, x: Tensor) -> Tensor:
        """(B, ..., K) -> (B, ..., N)."""
        y = linear(x, self.weight_NK)
        x_MK, y_MN = x.flatten(0, -2), y.flatten(0, -2)
        for stack, places in self.terms:
            y_MN = stack.add_to(y_MN, x_MK, places)
        return y_MN.view(y.shape)


@dataclass(frozen=True)
class Embedding:
    """The forward of the embedding: the base's rows, or the tenant's where it has changed them.

    changed: the rows of the batch of each tenant (n,) and what it has changed.
    """

    weight_VD: Tensor
    n_rows: int
    is_mixed: bool
    changed: list[tuple[Tensor, ChangedRows]]

    def __call__(self, ids_BT: Tensor) -> Tensor:
        """(B, T) -> (B, T, D). Raises ValueError for another batch, or several tokens of rows of several tenants."""
        if len(ids_BT) != self.n_rows:
            raise ValueError(f"the batch has {len(ids_BT)} rows, and bank.rows was given {self.n_rows} tenants")
        if self.is_mixed and ids_BT.shape[1] > 1:
            raise ValueError(f"rows of several tenants read one token at a time, and these read {ids_BT.shape[1]}")
        x_BTD = embedding(ids_BT, self.weight_VD)
        for rows, table in self.changed:
            ids = ids_BT[rows]
            at = torch.searchsorted(table.rows_R, ids).clamp_(max=len(table.rows_R) - 1)
            is_changed = (table.rows_R[at] == ids).unsqueeze(-1)
            x_BTD[rows] = torch.where(is_changed, table.values_RD[at], x_BTD[rows])
        return x_BTD


@dataclass(frozen=True)
class Head:
    """The decoder's predict: the base's logits, and those of each tenant's changed rows computed anew."""

    model: Decoder
    changed: list[tuple[Tensor, ChangedRows]]

    def __call__(self, hidden: Tensor) -> Tensor:
        """(B, ..., D) -> logits (B, ..., vocab_size)."""
        logits = Decoder.predict(self.model, hidden)
        # as rows of several tokens, also where there is one: what is indexed comes first, so tokens last
        logits_BTV, hidden_BTD = (tensor.view(len(hidden), -1, tensor.shape[-1]) for tensor in (logits, hidden))
        for rows, table in self.changed:
            own_bTR = linear(hidden_BTD[rows], table.values_RD)
            logits_BTV[rows.unsqueeze(1), :, table.rows_R] = own_bTR.transpose(1, 2)
        return logits


def refuse_loss(*_arguments: Any, **_options: Any) -> NoReturn:
    """What Decoder.loss is inside: it would read the base's head."""
    raise ValueError("Decoder.loss knows no tenants: take the logits of model(ids) inside bank.rows")
