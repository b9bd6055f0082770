"""Attention on the CPU through torch's own flash kernel; packed documents run one by one where that is faster."""

from __future__ import annotations

import torch
from torch import Tensor

from tilth.kernels.attention.reference import visible

# What F.scaled_dot_product_attention calls on the CPU. Called directly because it also returns the log-sum-exp, without
# which the backward would have to run the forward once more.
_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default
_flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward.default


def forward(
    q_BTHD: Tensor, k_BTGD: Tensor, v_BTGD: Tensor, segments_BT: Tensor | None, causal: bool, scale: float
) -> tuple[Tensor, Tensor]:
    """Return (o_BTHD, lse_BHT)."""
    q, k, v = _by_head(q_BTHD, k_BTGD, v_BTGD)
    n_queries, n_keys = q.shape[2], k.shape[2]
    if q.shape[0] == 0 or q.shape[1] == 0:
        dtype = torch.float64 if q.dtype == torch.float64 else torch.float32
        return torch.empty_like(q_BTHD, memory_format=torch.contiguous_format), q.new_empty(q.shape[:3], dtype=dtype)
    mask, is_causal = _mask(n_queries, n_keys, causal, segments_BT, q)
    o, lse = _flash(q, k, v, 0.0, is_causal, attn_mask=mask, scale=scale)
    return o.transpose(1, 2).contiguous(), lse.contiguous()


def backward(
    do_BTHD: Tensor,
    q_BTHD: Tensor,
    k_BTGD: Tensor,
    v_BTGD: Tensor,
    segments_BT: Tensor | None,
    o_BTHD: Tensor,
    lse_BHT: Tensor,
    causal: bool,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of q, k and v."""
    q, k, v = _by_head(q_BTHD, k_BTGD, v_BTGD)
    if q.shape[0] == 0 or q.shape[1] == 0:
        return torch.zeros_like(q_BTHD), torch.zeros_like(k_BTGD), torch.zeros_like(v_BTGD)
    mask, is_causal = _mask(q.shape[2], k.shape[2], causal, segments_BT, q)
    o, do = o_BTHD.transpose(1, 2), do_BTHD.transpose(1, 2)
    dq, dk, dv = _flash_backward(do, q, k, v, o, lse_BHT, 0.0, is_causal, attn_mask=mask, scale=scale)
    return dq.transpose(1, 2).contiguous(), _to_groups(dk, k_BTGD), _to_groups(dv, v_BTGD)


def _by_head(q_BTHD: Tensor, k_BTGD: Tensor, v_BTGD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return q, k, v as (B, H, T, D), each key and value repeated for the heads of its group."""
    n_per_group = q_BTHD.shape[2] // k_BTGD.shape[2]
    k, v = k_BTGD, v_BTGD
    if n_per_group > 1:
        k, v = k.repeat_interleave(n_per_group, dim=2), v.repeat_interleave(n_per_group, dim=2)
    # The kernel wants the last dimension contiguous; the others may be strided.
    q, k, v = (t if t.stride(-1) == 1 else t.contiguous() for t in (q_BTHD, k, v))
    return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)


def _to_groups(gradient_BHTD: Tensor, like_BTGD: Tensor) -> Tensor:
    n_batch, n_tokens, n_groups, head_dim = like_BTGD.shape
    by_group = gradient_BHTD.reshape(n_batch, n_groups, -1, n_tokens, head_dim).sum(dim=2)
    return by_group.transpose(1, 2).to(like_BTGD.dtype).contiguous()


def _mask(
    n_queries: int, n_keys: int, causal: bool, segments_BT: Tensor | None, like: Tensor
) -> tuple[Tensor | None, bool]:
    """Return the additive mask, if one is needed, and whether the kernel's own causal rule is enough."""
    if segments_BT is None and (not causal or n_queries == 1):
        return None, False
    if segments_BT is None and n_queries == n_keys:
        return None, True
    seen = visible(n_queries, n_keys, causal, segments_BT, like.device)
    return torch.zeros(seen.shape, dtype=like.dtype).masked_fill_(~seen, float("-inf")), False
