"""The functions of flash_attn (Dao et al.; versions 2 to 4), on `attention`, `attention_decode` and `rope`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tilth.kernels.attention import attention, attention_varlen
from tilth.kernels.attention_decode import attention_decode, write_pages
from tilth.kernels.rope import rope

Window = tuple[int | None, int | None]


def flash_attn_func(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: Window = (-1, -1),
    softcap: float = 0.0,
    deterministic: bool = True,
    return_lse: bool = False,
) -> Any:
    """Return the attention (B, T, H, D) of q (B, T, H, D) over k and v (B, S, G, D); with `return_lse` also (B, H, T).

    `deterministic` changes nothing: every result is the same in every run. Raises as `attention` does.
    """
    return attention(q, k, v, causal=causal, window=window_size, softcap=softcap, scale=softmax_scale, return_lse=return_lse)


def flash_attn_varlen_func(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int | None = None,
    max_seqlen_k: int | None = None,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: Window = (-1, -1),
    softcap: float = 0.0,
    deterministic: bool = True,
    return_lse: bool = False,
) -> Any:
    """Return the attention (T, H, D) of packed documents; with `return_lse` also (H, T).

    `max_seqlen_q` and `max_seqlen_k` are not needed, and `deterministic` changes nothing. Raises as `attention_varlen` does.
    """
    return attention_varlen(
        q, k, v, cu_seqlens_q=cu_seqlens_q, cu_seqlens_k=cu_seqlens_k, causal=causal, window=window_size,
        softcap=softcap, scale=softmax_scale, return_lse=return_lse,
    )  # fmt: skip


def flash_attn_with_kvcache(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    *,
    k: Tensor | None = None,
    v: Tensor | None = None,
    cache_seqlens: Tensor | int,
    page_table: Tensor | None = None,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: Window = (-1, -1),
    softcap: float = 0.0,
    num_splits: int = 0,
    return_softmax_lse: bool = False,
) -> Any:
    """Return the attention of new queries (B, T, H, D) over a cache, into which k and v (B, T, G, D) are written first.

    The cache is (B, S, G, D), or pages (n_pages, page size, G, D) with `page_table` (B, pages), int32. `cache_seqlens`
    counts what the cache holds before the new tokens. Raises as `attention_decode` does, and ValueError where only one
    of k and v is given.
    """
    if (k is None) != (v is None):
        raise ValueError("k and v must be given together or not at all")
    n_batch = q.shape[0]
    lengths = torch.as_tensor(cache_seqlens, dtype=torch.int32, device=q.device).expand(n_batch)
    table = page_table
    if table is None:
        table = torch.arange(n_batch, dtype=torch.int32, device=q.device).unsqueeze(1)
    if k is not None and v is not None:
        lengths = lengths + k.shape[1]
        write_pages(k, v, k_cache, v_cache, block_table_BP=table, lengths_B=lengths)
    return attention_decode(
        q, k_cache, v_cache, block_table_BP=table, lengths_B=lengths.contiguous(), scale=softmax_scale, causal=causal,
        window=window_size, softcap=softcap, n_splits=num_splits or None, return_lse=return_softmax_lse,
    )  # fmt: skip


def apply_rotary_emb(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool = False) -> Tensor:
    """Return x (B, T, H, D) with its first 2 R channels rotated by the angles of cos and sin (T, R)."""
    return rope(x, cos[: x.shape[1]], sin[: x.shape[1]], interleaved=interleaved)
