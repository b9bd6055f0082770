"""`attention` and `attention_varlen`: softmax attention with grouped queries, windows, packed documents and decoding."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tilth.kernels.attention import cpu
from tilth.kernels.attention.visible import Mask
from tilth.kernels.backend import check_device, check_float, check_segments, choose_backend, implementation
from tilth.kernels.softmax_options import Window, check_softcap, softmax_scale, window_limits

GLUON_IS_CHECKED = False
"""Whether the Gluon kernel is the default on the GPUs that it is for. It has no interpreter: until its results, and a hunt
for races, have been seen on such a GPU, it runs only where the backend `gluon` is asked for."""
GLUON_HEAD_SIZES = (64, 128, 256)
LARGEST_HEAD = 256
"""Of the Triton kernels, which hold a row of a head in registers."""

# Written out, so that the functions below need not repeat it: torch would infer it from their signatures.
_INPUTS = "Tensor q_BTHD, Tensor k_BTGD, Tensor v_BTGD"
_OPTIONS = (
    "int left, int right, Tensor? segments_BT, Tensor? cu_seqlens_q, Tensor? cu_seqlens_k, "
    "float softcap, float scale, str backend"
)
_N_OPTIONS = 8


def attention(
    q_BTHD: Tensor,
    k_BTGD: Tensor,
    v_BTGD: Tensor,
    *,
    causal: bool = True,
    segments_BT: Tensor | None = None,
    window: Window = None,
    softcap: float = 0.0,
    scale: float | None = None,
    return_lse: bool = False,
    backend: str | None = None,
) -> Any:
    """Return softmax(scale * q k^T) v as (B, Tq, H, D), in the dtype of q.

    H is a multiple of G: head h reads keys and values of group h // (H // G). The last query has the place of the last
    key, whether there are fewer queries than keys, as in decoding, or more. A query sees the keys of its place and
    before where `causal`; with `window` (left, right) those from `left` before its place to `right` after it, None or -1
    for no limit (one number n: (n, 0) if causal, (n, n) if not). `segments_BT` (int32, one id per row of k) packs
    documents: a query sees the unbroken run of its own id only, so that an id which comes back later begins a new
    document. With `softcap` c > 0 a score s becomes c tanh(s / c). `scale` is 1 / sqrt(D) where not given.
    `return_lse`: return also the logarithm of each row's sum of exponentials, (B, H, Tq) in float32 (float64 for float64
    inputs), through which gradients flow. A query that sees no key gives 0, and -inf there.
    Every backend gives the same bits in every run. Source: Vaswani et al. 2017, section 3.2.1; grouped queries: Ainslie
    et al. 2023; softcap: Gemma Team 2024, section 2.
    Raises ValueError for shapes, dtypes or options that do not fit, BackendError for a backend that cannot run.
    """
    _check_inputs(q_BTHD, k_BTGD, v_BTGD, ("q_BTHD", "k_BTGD", "v_BTGD"), "B, T, heads, D")
    if k_BTGD.shape[0] != q_BTHD.shape[0]:
        raise ValueError(f"k_BTGD has shape {tuple(k_BTGD.shape)}; expected batch {q_BTHD.shape[0]} as in q_BTHD")
    n_queries, n_keys = q_BTHD.shape[1], k_BTGD.shape[1]
    if segments_BT is not None:
        check_segments(segments_BT, (q_BTHD.shape[0], n_keys))
        check_device(q_BTHD, segments_BT=segments_BT)
        if n_queries > n_keys:
            raise ValueError(
                f"q_BTHD has {n_queries} tokens and k_BTGD {n_keys}; with segments_BT the queries are rows of the keys"
            )
    check_softcap(softcap)
    left, right = window_limits(window, causal)
    chosen = _backend(q_BTHD, softcap, backend)
    softcap, scale = float(softcap), softmax_scale(scale, q_BTHD.shape[-1])
    if chosen == "cpu" and segments_BT is None and softcap == 0 and not return_lse:
        is_causal = 0 <= right < n_queries - 1
        if left < 0 and q_BTHD.numel() and n_keys and (not is_causal or (right == 0 and n_queries == n_keys)):
            return cpu.plain(q_BTHD, k_BTGD, v_BTGD, is_causal, scale)
    o_BTHD, lse_BHT = _attention(q_BTHD, k_BTGD, v_BTGD, left, right, segments_BT, None, None, softcap, scale, chosen)
    return (o_BTHD, lse_BHT) if return_lse else o_BTHD


def attention_varlen(
    q_THD: Tensor,
    k_TGD: Tensor,
    v_TGD: Tensor,
    *,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor | None = None,
    causal: bool = True,
    window: Window = None,
    softcap: float = 0.0,
    scale: float | None = None,
    return_lse: bool = False,
    backend: str | None = None,
) -> Any:
    """Return the attention of packed documents as (Tq, H, D); with `return_lse` also the log-sum-exp (H, Tq).

    Document i has the queries from cu_seqlens_q[i] to cu_seqlens_q[i + 1] and the keys from cu_seqlens_k[i] to
    cu_seqlens_k[i + 1] (int32, from 0 to all tokens, never falling; `cu_seqlens_k` is `cu_seqlens_q` where not given).
    Documents may be empty on either side. The last query of a document has the place of its last key, as in
    FlashAttention since 2.1. All else is as in `attention`.
    Raises ValueError for shapes, dtypes or options that do not fit, and on the CPU for cu_seqlens that fall or end
    elsewhere; on a GPU those fail in a device assertion, since a check would wait for it.
    """
    _check_inputs(q_THD, k_TGD, v_TGD, ("q_THD", "k_TGD", "v_TGD"), "T, heads, D")
    for name, bounds in (("cu_seqlens_q", cu_seqlens_q), ("cu_seqlens_k", cu_seqlens_k)):
        if bounds is not None and (bounds.dtype != torch.int32 or bounds.dim() != 1 or len(bounds) < 2):
            raise ValueError(f"{name} is {bounds.dtype} of shape {tuple(bounds.shape)}; expected int32 of shape (documents + 1,)")
    if cu_seqlens_k is not None and len(cu_seqlens_k) != len(cu_seqlens_q):
        raise ValueError(
            f"cu_seqlens_k has {len(cu_seqlens_k)} bounds and cu_seqlens_q {len(cu_seqlens_q)}; expected equally many"
        )
    if cu_seqlens_k is None and k_TGD.shape[0] != q_THD.shape[0]:
        raise ValueError(f"k_TGD has {k_TGD.shape[0]} tokens and q_THD {q_THD.shape[0]}; without cu_seqlens_k they must be equal")
    check_device(q_THD, cu_seqlens_q=cu_seqlens_q, cu_seqlens_k=cu_seqlens_k)
    check_softcap(softcap)
    left, right = window_limits(window, causal)
    chosen = _backend(q_THD, softcap, backend)
    batched = (tensor.unsqueeze(0) for tensor in (q_THD, k_TGD, v_TGD))
    o_BTHD, lse_BHT = _attention(
        *batched, left, right, None, cu_seqlens_q, cu_seqlens_k, float(softcap), softmax_scale(scale, q_THD.shape[-1]), chosen
    )
    return (o_BTHD.squeeze(0), lse_BHT.squeeze(0)) if return_lse else o_BTHD.squeeze(0)


def _check_inputs(q: Tensor, k: Tensor, v: Tensor, names: tuple[str, str, str], letters: str) -> None:
    n_dimensions = letters.count(",") + 1
    check_float(names[0], q)
    for name, tensor in zip(names, (q, k, v), strict=True):
        if tensor.dim() != n_dimensions:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}; expected {n_dimensions} dimensions ({letters})")
        if tensor.dtype != q.dtype:
            raise ValueError(f"{name} is {tensor.dtype}, but {names[0]} is {q.dtype}; they must be the same")
    if k.shape != v.shape:
        raise ValueError(f"{names[1]} has shape {tuple(k.shape)} and {names[2]} {tuple(v.shape)}; they must be equal")
    if q.shape[-1] == 0 or k.shape[-1] != q.shape[-1]:
        raise ValueError(f"{names[1]} has heads of size {k.shape[-1]} and {names[0]} of {q.shape[-1]}; expected equal sizes >= 1")
    if k.shape[-2] == 0 or q.shape[-2] % k.shape[-2]:
        raise ValueError(f"{names[0]}: {q.shape[-2]} heads cannot share {k.shape[-2]} groups: H must be a multiple of G")
    check_device(q, **{names[1]: k, names[2]: v})


def _backend(q: Tensor, softcap: float, asked: str | None) -> str:
    has_gluon = q.element_size() == 2 and q.shape[-1] in GLUON_HEAD_SIZES and softcap == 0
    chosen = choose_backend(q, asked, has_gluon=has_gluon, gluon_is_default=GLUON_IS_CHECKED)
    if chosen == "triton" and q.shape[-1] > LARGEST_HEAD:
        raise ValueError(f"the heads of q have size {q.shape[-1]}; the Triton kernels hold at most {LARGEST_HEAD}")
    return chosen


def _check_bounds(mask: Mask, n_queries: int, n_keys: int) -> None:
    """Raise ValueError where cu_seqlens fall or do not cover the tokens; on a GPU an assertion that nobody waits for."""
    of_keys = mask.cu_seqlens_q if mask.cu_seqlens_k is None else mask.cu_seqlens_k
    for name, bounds, n_tokens in (("cu_seqlens_q", mask.cu_seqlens_q, n_queries), ("cu_seqlens_k", of_keys, n_keys)):
        if bounds is None:
            continue
        holds = (bounds[0] == 0) & (bounds[-1] == n_tokens) & (bounds[1:] >= bounds[:-1]).all()
        message = f"{name} must begin with 0, never fall and end with the number of tokens, {n_tokens}"
        if bounds.device.type != "cpu":
            torch._assert_async(holds, message)
        elif not holds:
            raise ValueError(f"{message}; got {bounds.tolist()[:8]}{' ...' if len(bounds) > 8 else ''}")


@torch.library.custom_op("tilth::attention", mutates_args=(), schema=f"({_INPUTS}, {_OPTIONS}) -> (Tensor, Tensor)")
def _attention(q_BTHD: Tensor, k_BTGD: Tensor, v_BTGD: Tensor, *options: Any) -> tuple[Tensor, Tensor]:
    """Second output: the log of the sum of exponentials of each row (B, H, Tq)."""
    *limits, softcap, scale, backend = options
    n_queries, n_keys = q_BTHD.shape[1], k_BTGD.shape[1]
    mask = Mask(*limits).without_idle_limits(n_queries, n_keys)
    _check_bounds(mask, n_queries, n_keys)
    return implementation("attention", backend).forward(q_BTHD, k_BTGD, v_BTGD, mask, softcap, scale)


@torch.library.custom_op(
    "tilth::attention_backward",
    mutates_args=(),
    schema=f"(Tensor do_BTHD, Tensor? dlse_BHT, {_INPUTS}, Tensor o_BTHD, Tensor lse_BHT, {_OPTIONS})"
    " -> (Tensor, Tensor, Tensor)",
)
def _attention_backward(do_BTHD: Tensor, dlse_BHT: Tensor | None, *arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    *tensors, softcap, scale, backend = arguments
    tensors, limits = tensors[:5], tensors[5:]
    mask = Mask(*limits).without_idle_limits(tensors[0].shape[1], tensors[1].shape[1])
    return implementation("attention", backend).backward(do_BTHD, dlse_BHT, *tensors, mask, softcap, scale)


@_attention.register_fake
def _(q_BTHD: Tensor, *_arguments: Any) -> tuple[Tensor, Tensor]:
    n_batch, n_queries, n_heads, _ = q_BTHD.shape
    dtype = torch.float64 if q_BTHD.dtype == torch.float64 else torch.float32
    return q_BTHD.new_empty(q_BTHD.shape), q_BTHD.new_empty((n_batch, n_heads, n_queries), dtype=dtype)


@_attention_backward.register_fake
def _(
    _do: Tensor, _dlse: Tensor | None, q_BTHD: Tensor, k_BTGD: Tensor, v_BTGD: Tensor, *_arguments: Any
) -> tuple[Tensor, Tensor, Tensor]:
    return q_BTHD.new_empty(q_BTHD.shape), k_BTGD.new_empty(k_BTGD.shape), v_BTGD.new_empty(v_BTGD.shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.set_materialize_grads(False)  # most calls do not differentiate the log-sum-exp
    *tensors, ctx.left, ctx.right, segments, cu_q, cu_k, ctx.softcap, ctx.scale, ctx.backend = inputs
    ctx.save_for_backward(*tensors, *output, segments, cu_q, cu_k)


def _differentiate(ctx: Any, do_BTHD: Tensor | None, dlse_BHT: Tensor | None) -> tuple[Tensor | None, ...]:
    *tensors, segments, cu_q, cu_k = ctx.saved_tensors
    if do_BTHD is None:
        do_BTHD = torch.zeros_like(tensors[0])
    limits = (ctx.left, ctx.right, segments, cu_q, cu_k)
    gradients = _attention_backward(do_BTHD, dlse_BHT, *tensors, *limits, ctx.softcap, ctx.scale, ctx.backend)
    return *gradients, *[None] * _N_OPTIONS


_attention.register_autograd(_differentiate, setup_context=_save)
