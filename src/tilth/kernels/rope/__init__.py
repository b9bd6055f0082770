"""`rope`: rotary position embedding of queries and keys, whole or partial, half-split or interleaved."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tilth.kernels.backend import check_device, check_float, check_shape, choose_backend, implementation


def rope(
    x_BTHD: Tensor,
    cos_TR: Tensor,
    sin_TR: Tensor,
    *,
    interleaved: bool = False,
    positions_BT: Tensor | None = None,
    offsets_B: Tensor | None = None,
    inverse: bool = False,
    backend: str | None = None,
) -> Tensor:
    """Return x with its first 2R channels turned by the angles of each token's position; the others as they are.

    Row p of `cos_TR` and `sin_TR` belongs to position p. The channels that turn together are i and i + R (GPT-NeoX,
    Llama), or 2i and 2i + 1 where `interleaved` (GPT-J). A token's position is its index in the row, or that plus
    `offsets_B` (int32, one per row, as in decoding), or `positions_BT` (int32, for packed documents). `inverse` turns
    back, which is also the gradient. Products are in float32 (float64 for float64 input); no gradient flows to the tables.
    Source: Su et al. 2021, "RoFormer", equations 34 and 15.
    Raises ValueError for shapes or dtypes that do not fit, BackendError for a backend that cannot run. A position that
    is not in the tables is a ValueError on the CPU; on a GPU, where asking would wait for it, its token becomes NaN.
    """
    _check(x_BTHD, cos_TR, sin_TR, positions_BT, offsets_B)
    if offsets_B is not None:
        positions_BT = offsets_B[:, None] + torch.arange(x_BTHD.shape[1], device=x_BTHD.device, dtype=torch.int32)
    return _rope(x_BTHD, cos_TR, sin_TR, positions_BT, interleaved, inverse, choose_backend(x_BTHD, backend))


def _check(x_BTHD: Tensor, cos_TR: Tensor, sin_TR: Tensor, positions_BT: Tensor | None, offsets_B: Tensor | None) -> None:
    if x_BTHD.dim() != 4:
        raise ValueError(f"x_BTHD has shape {tuple(x_BTHD.shape)}; expected 4 dimensions (B, T, H, D)")
    for name, tensor in (("x_BTHD", x_BTHD), ("cos_TR", cos_TR), ("sin_TR", sin_TR)):
        check_float(name, tensor)
    if cos_TR.dim() != 2 or not 2 <= 2 * cos_TR.shape[1] <= x_BTHD.shape[3]:
        raise ValueError(f"cos_TR has shape {tuple(cos_TR.shape)}; expected (positions, R) with 2 <= 2R <= D = {x_BTHD.shape[3]}")
    check_shape("sin_TR", sin_TR, tuple(cos_TR.shape), "the shape of cos_TR")
    if sin_TR.dtype != cos_TR.dtype:
        raise ValueError(f"sin_TR is {sin_TR.dtype}, but cos_TR is {cos_TR.dtype}; they must be the same")
    for name, table in (("cos_TR", cos_TR), ("sin_TR", sin_TR)):
        if table.requires_grad:
            raise ValueError(f"{name} requires a gradient, and the tables get none; pass {name}.detach()")
    if positions_BT is not None and offsets_B is not None:
        raise ValueError("positions_BT and offsets_B both say where tokens stand; expected at most one of them")
    for name, ids, shape in (("positions_BT", positions_BT, x_BTHD.shape[:2]), ("offsets_B", offsets_B, x_BTHD.shape[:1])):
        if ids is not None:
            check_shape(name, ids, tuple(shape), name.rpartition("_")[2])
            if ids.dtype != torch.int32:
                raise ValueError(f"{name} is {ids.dtype}; expected int32")
    if positions_BT is None and offsets_B is None and cos_TR.shape[0] < x_BTHD.shape[1]:
        raise ValueError(f"cos_TR has {cos_TR.shape[0]} positions; expected at least one for each of {x_BTHD.shape[1]} tokens")
    check_device(x_BTHD, cos_TR=cos_TR, sin_TR=sin_TR, positions_BT=positions_BT, offsets_B=offsets_B)


@torch.library.custom_op("tilth::rope", mutates_args=())
def _rope(
    x_BTHD: Tensor, cos_TR: Tensor, sin_TR: Tensor, positions_BT: Tensor | None, interleaved: bool, inverse: bool, backend: str
) -> Tensor:
    return implementation("rope", backend).forward(x_BTHD, cos_TR, sin_TR, positions_BT, interleaved, inverse)


@torch.library.custom_op("tilth::rope_backward", mutates_args=())
def _rope_backward(
    dy_BTHD: Tensor, cos_TR: Tensor, sin_TR: Tensor, positions_BT: Tensor | None, interleaved: bool, inverse: bool, backend: str
) -> Tensor:
    return implementation("rope", backend).backward(dy_BTHD, cos_TR, sin_TR, positions_BT, interleaved, inverse)


@_rope.register_fake
@_rope_backward.register_fake
def _(
    x_BTHD: Tensor, cos_TR: Tensor, sin_TR: Tensor, positions_BT: Tensor | None, interleaved: bool, inverse: bool, backend: str
) -> Tensor:
    return x_BTHD.new_empty(x_BTHD.shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, *tables, ctx.interleaved, ctx.inverse, ctx.backend = inputs
    ctx.save_for_backward(*tables)


def _differentiate(ctx: Any, dy_BTHD: Tensor) -> tuple[Tensor | None, ...]:
    dx_BTHD = _rope_backward(dy_BTHD, *ctx.saved_tensors, ctx.interleaved, ctx.inverse, ctx.backend)
    return dx_BTHD, None, None, None, None, None, None


_rope.register_autograd(_differentiate, setup_context=_save)
