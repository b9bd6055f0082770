"""Attention on the CPU through torch's own flash kernel; packed documents run one by one where that is faster."""

from __future__ import annotations

import torch
from torch import Tensor

from tilth.kernels.attention.reference import visible
from tilth.kernels.backend import compute_dtype

# What F.scaled_dot_product_attention calls on the CPU. Called directly because it also returns the log-sum-exp, without
# which the backward would have to run the forward once more.
_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default
_flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward.default
# A call of its own for a document costs as much as this many scores of the masked form (benchmarks/kernels_cpu.py).
_SCORES_PER_CALL = 16_384


def forward(
    q_BTHD: Tensor, k_BTGD: Tensor, v_BTGD: Tensor, segments_BT: Tensor | None, causal: bool, scale: float
) -> tuple[Tensor, Tensor]:
    """Return (o_BTHD, lse_BHT)."""
    q, k, v = _by_head(q_BTHD, k_BTGD, v_BTGD)
    parts = _parts(q, k, causal, segments_BT)
    if len(parts) == 1:  # nothing to put together: no copies
        _, _, mask, is_causal = parts[0]
        whole, lse = _flash(q, k, v, 0.0, is_causal, attn_mask=mask, scale=scale)
        return whole.transpose(1, 2).contiguous(), lse.contiguous()
    o = torch.empty_like(q_BTHD, memory_format=torch.contiguous_format)
    lse = q.new_empty(q.shape[:3], dtype=compute_dtype(q))
    for rows, tokens, mask, is_causal in parts:
        part_o, lse[rows, :, tokens] = _flash(
            q[rows, :, tokens], k[rows, :, tokens], v[rows, :, tokens], 0.0, is_causal, attn_mask=mask, scale=scale
        )
        o[rows, tokens] = part_o.transpose(1, 2)
    return o, lse


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
    inputs = _by_head(q_BTHD, k_BTGD, v_BTGD)
    parts = _parts(inputs[0], inputs[1], causal, segments_BT)
    o, do = o_BTHD.transpose(1, 2), do_BTHD.transpose(1, 2)
    if len(parts) == 1:
        _, _, mask, is_causal = parts[0]
        dq, dk, dv = _flash_backward(do, *inputs, o, lse_BHT, 0.0, is_causal, attn_mask=mask, scale=scale)
        return dq.transpose(1, 2).contiguous(), _to_groups(dk, k_BTGD), _to_groups(dv, v_BTGD)
    gradients = [torch.empty_like(t, memory_format=torch.contiguous_format) for t in inputs]
    for rows, tokens, mask, is_causal in parts:
        part = (t[rows, :, tokens] for t in (do, *inputs, o, lse_BHT))
        found = _flash_backward(*part, 0.0, is_causal, attn_mask=mask, scale=scale)
        for gradient, values in zip(gradients, found, strict=True):
            gradient[rows, :, tokens] = values
    dq, dk, dv = gradients
    return dq.transpose(1, 2).contiguous(), _to_groups(dk, k_BTGD), _to_groups(dv, v_BTGD)


def _parts(q: Tensor, k: Tensor, causal: bool, segments_BT: Tensor | None) -> list[tuple[slice, slice, Tensor | None, bool]]:
    """Return the calls to make: rows, tokens, additive mask if one is needed, and whether to use the kernel's causal rule."""
    n_queries, n_keys, everything = q.shape[2], k.shape[2], slice(None)
    if q.shape[0] == 0 or q.shape[1] == 0:
        return []
    if segments_BT is None and (not causal or n_queries == 1):
        return [(everything, everything, None, False)]
    if n_queries == n_keys:
        if segments_BT is None:
            return [(everything, everything, None, causal)]
        documents = _documents(segments_BT)
        if len(documents) == len(segments_BT):
            return [(everything, everything, None, causal)]
        if _is_faster_apart(documents, n_keys, q.shape[0], q.shape[1]) and not _has_returning_id(documents):
            return [(slice(row, row + 1), slice(start, end), None, causal) for row, start, end, _ in documents]
    seen = visible(n_queries, n_keys, causal, segments_BT, q.device)
    return [(everything, everything, torch.zeros(seen.shape, dtype=q.dtype).masked_fill_(~seen, float("-inf")), False)]


def _documents(segments_BT: Tensor) -> list[tuple[int, int, int, int]]:
    """Return (row, start, end, id) of every run of equal ids."""
    n_tokens = segments_BT.shape[1]
    is_start = torch.ones_like(segments_BT, dtype=torch.bool)
    is_start[:, 1:] = segments_BT[:, 1:] != segments_BT[:, :-1]
    rows, starts = (column.tolist() for column in is_start.nonzero(as_tuple=True))
    is_last = [i + 1 == len(rows) or rows[i + 1] != rows[i] for i in range(len(rows))]
    ends = [n_tokens if last else starts[i + 1] for i, last in enumerate(is_last)]
    return list(zip(rows, starts, ends, segments_BT[is_start].tolist(), strict=True))


def _is_faster_apart(documents: list[tuple[int, int, int, int]], n_tokens: int, n_batch: int, n_heads: int) -> bool:
    n_scores_apart = sum((end - start) ** 2 for _, start, end, _ in documents) // 2
    n_scores_saved = (n_batch * n_tokens**2 - n_scores_apart) * n_heads
    return len(documents) * _SCORES_PER_CALL < n_scores_saved


def _has_returning_id(documents: list[tuple[int, int, int, int]]) -> bool:
    """Whether an id comes back later in its row: its tokens see each other across what lies between."""
    return len({(row, segment) for row, _, _, segment in documents}) < len(documents)


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
    n_per_group = gradient_BHTD.shape[1] // n_groups
    if n_per_group == 1:
        return gradient_BHTD.transpose(1, 2).contiguous()
    by_group = gradient_BHTD.reshape(n_batch, n_groups, n_per_group, n_tokens, head_dim).sum(dim=2)
    return by_group.transpose(1, 2).to(like_BTGD.dtype).contiguous()
