"""`attention`: softmax attention with grouped queries, packed documents and decoding, in one signature."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from tilth.kernels.backend import (
    check_device,
    check_float,
    check_segments,
    choose_backend,
    implementation,
)


def attention(
    q_BTHD: Tensor,
    k_BTGD: Tensor,
    v_BTGD: Tensor,
    *,
    causal: bool = True,
    segments_BT: Tensor | None = None,
    scale: float | None = None,
) -> Tensor:
    """Return softmax(scale * q k^T) v as (B, Tq, H, D), in the dtype of q.

    H is a multiple of G: head h reads keys and values of group h // (H // G). q may have fewer tokens than k: its rows
    are then the last rows of k, as in decoding. `segments_BT` (int32, one id per row of k) limits every token to
    tokens with the same id. `scale` is 1 / sqrt(D) where not given.
    Source: Vaswani et al. 2017, section 3.2.1; grouped queries: Ainslie et al. 2023.
    Raises ValueError for shapes or dtypes that do not fit, BackendError for a backend that cannot run.
    """
    _check(q_BTHD, k_BTGD, v_BTGD, segments_BT)
    if scale is None:
        scale = 1.0 / math.sqrt(q_BTHD.shape[-1])
    o_BTHD, _ = _attention(q_BTHD, k_BTGD, v_BTGD, segments_BT, causal, scale, choose_backend(q_BTHD))
    return o_BTHD


def _check(q_BTHD: Tensor, k_BTGD: Tensor, v_BTGD: Tensor, segments_BT: Tensor | None) -> None:
    for name, tensor in (("q_BTHD", q_BTHD), ("k_BTGD", k_BTGD), ("v_BTGD", v_BTGD)):
        if tensor.dim() != 4:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}; expected 4 dimensions (B, T, heads, D)")
        check_float(name, tensor)
        if tensor.dtype != q_BTHD.dtype:
            raise ValueError(f"{name} is {tensor.dtype}, but q_BTHD is {q_BTHD.dtype}; they must be the same")
    if k_BTGD.shape != v_BTGD.shape:
        raise ValueError(f"k_BTGD has shape {tuple(k_BTGD.shape)} and v_BTGD {tuple(v_BTGD.shape)}; they must be equal")
    n_batch, n_queries, n_heads, head_dim = q_BTHD.shape
    if k_BTGD.shape[0] != n_batch or k_BTGD.shape[3] != head_dim:
        raise ValueError(
            f"k_BTGD has shape {tuple(k_BTGD.shape)}; expected batch {n_batch} and head dimension {head_dim} as in q"
        )
    n_keys, n_groups = k_BTGD.shape[1:3]
    if not 1 <= n_queries <= n_keys or head_dim == 0:
        raise ValueError(f"q_BTHD has {n_queries} tokens and k_BTGD {n_keys}; expected 1 <= queries <= keys, and D >= 1")
    if n_groups == 0 or n_heads % n_groups:
        raise ValueError(f"{n_heads} heads cannot share {n_groups} groups: H must be a multiple of G")
    if segments_BT is not None:
        check_segments(segments_BT, (n_batch, n_keys))
    check_device(q_BTHD, k_BTGD=k_BTGD, v_BTGD=v_BTGD, segments_BT=segments_BT)


@torch.library.custom_op("tilth::attention", mutates_args=())
def _attention(
    q_BTHD: Tensor,
    k_BTGD: Tensor,
    v_BTGD: Tensor,
    segments_BT: Tensor | None,
    causal: bool,
    scale: float,
    backend: str,
) -> tuple[Tensor, Tensor]:
    """Second output: the log of the sum of exponentials of each row (B, H, Tq), kept for the backward."""
    return implementation("attention", backend).forward(q_BTHD, k_BTGD, v_BTGD, segments_BT, causal, scale)


@torch.library.custom_op("tilth::attention_backward", mutates_args=())
def _attention_backward(
    do_BTHD: Tensor,
    q_BTHD: Tensor,
    k_BTGD: Tensor,
    v_BTGD: Tensor,
    segments_BT: Tensor | None,
    o_BTHD: Tensor,
    lse_BHT: Tensor,
    causal: bool,
    scale: float,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    module = implementation("attention", backend)
    return module.backward(do_BTHD, q_BTHD, k_BTGD, v_BTGD, segments_BT, o_BTHD, lse_BHT, causal, scale)


@_attention.register_fake
def _(
    q_BTHD: Tensor,
    k_BTGD: Tensor,
    v_BTGD: Tensor,
    segments_BT: Tensor | None,
    causal: bool,
    scale: float,
    backend: str,
) -> tuple[Tensor, Tensor]:
    n_batch, n_queries, n_heads, _ = q_BTHD.shape
    dtype = torch.float64 if q_BTHD.dtype == torch.float64 else torch.float32
    return q_BTHD.new_empty(q_BTHD.shape), q_BTHD.new_empty((n_batch, n_heads, n_queries), dtype=dtype)


@_attention_backward.register_fake
def _(
    do_BTHD: Tensor,
    q_BTHD: Tensor,
    k_BTGD: Tensor,
    v_BTGD: Tensor,
    segments_BT: Tensor | None,
    o_BTHD: Tensor,
    lse_BHT: Tensor,
    causal: bool,
    scale: float,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    return q_BTHD.new_empty(q_BTHD.shape), k_BTGD.new_empty(k_BTGD.shape), v_BTGD.new_empty(v_BTGD.shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.causal, ctx.scale, ctx.backend = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(*tensors, *output)


def _differentiate(ctx: Any, do_BTHD: Tensor, _dlse: Tensor) -> tuple[Tensor | None, ...]:
    dq, dk, dv = _attention_backward(do_BTHD, *ctx.saved_tensors, ctx.causal, ctx.scale, ctx.backend)
    return dq, dk, dv, None, None, None, None


_attention.register_autograd(_differentiate, setup_context=_save)
