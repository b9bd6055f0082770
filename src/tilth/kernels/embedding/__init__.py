"""`embedding`: rows of a table by token id, with a gradient that is the same in every run."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tilth.kernels.backend import check_device, check_float, choose_backend, implementation


def embedding(
    ids: Tensor, weight_VD: Tensor, *, padding_index: int | None = None, scale: float = 1.0, backend: str | None = None
) -> Tensor:
    """Return scale * weight[ids] as (..., D), in the dtype of the weight.

    `ids` (int32 or int64) has any shape. The row `padding_index` gets no gradient. The gradient of a row is the sum over
    its tokens in the order in which they stand, in float32 (float64 for float64), without atomics.
    Raises ValueError for shapes or dtypes that do not fit, BackendError for a backend that cannot run. An id that is not
    in the table is a ValueError on the CPU; on a GPU, where asking would wait for it, its row becomes NaN and its
    gradient goes nowhere.
    """
    check_float("weight_VD", weight_VD)
    if weight_VD.dim() != 2 or 0 in weight_VD.shape:
        raise ValueError(f"weight_VD has shape {tuple(weight_VD.shape)}; expected 2 dimensions (V, D) of at least 1")
    if ids.dtype not in (torch.int32, torch.int64):
        raise ValueError(f"ids is {ids.dtype}; expected int32 or int64")
    if padding_index is not None and not 0 <= padding_index < weight_VD.shape[0]:
        raise ValueError(f"padding_index is {padding_index}; expected 0 to {weight_VD.shape[0] - 1}, or None")
    check_device(weight_VD, ids=ids)
    return _embedding(ids, weight_VD, padding_index, scale, choose_backend(weight_VD, backend))


@torch.library.custom_op("tilth::embedding", mutates_args=())
def _embedding(ids: Tensor, weight_VD: Tensor, padding_index: int | None, scale: float, backend: str) -> Tensor:
    return implementation("embedding", backend).forward(ids, weight_VD, scale)


@torch.library.custom_op("tilth::embedding_backward", mutates_args=())
def _embedding_backward(dy_D: Tensor, ids: Tensor, n_rows: int, padding_index: int | None, scale: float, backend: str) -> Tensor:
    return implementation("embedding", backend).backward(dy_D, ids, n_rows, padding_index, scale)


@_embedding.register_fake
def _(ids: Tensor, weight_VD: Tensor, padding_index: int | None, scale: float, backend: str) -> Tensor:
    return weight_VD.new_empty((*ids.shape, weight_VD.shape[1]))


@_embedding_backward.register_fake
def _(dy_D: Tensor, ids: Tensor, n_rows: int, padding_index: int | None, scale: float, backend: str) -> Tensor:
    return dy_D.new_empty((n_rows, dy_D.shape[-1]))


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ids, weight_VD, *ctx.options = inputs
    ctx.n_rows = weight_VD.shape[0]
    ctx.save_for_backward(ids)


def _differentiate(ctx: Any, dy_D: Tensor) -> tuple[Tensor | None, ...]:
    return None, _embedding_backward(dy_D, *ctx.saved_tensors, ctx.n_rows, *ctx.options), None, None, None


_embedding.register_autograd(_differentiate, setup_context=_save)
