"""Softmax attention with the whole matrix of scores, the truth that the other backends are tested against."""

from __future__ import annotations

import torch
from torch import Tensor

from tilth.kernels.attention.visible import Mask
from tilth.kernels.backend import compute_dtype


def seen_pairs(mask: Mask, n_queries: int, n_keys: int, device: torch.device) -> Tensor:
    """Return which key each query sees, pair by pair: bool (1 or B, 1, n_queries, n_keys).

    Queries and keys are counted from the end of their document, where they meet.
    """
    query_T, key_S = torch.arange(n_queries, device=device), torch.arange(n_keys, device=device)
    query_from_end, key_from_end = query_T - n_queries, key_S - n_keys
    same = torch.ones(1, n_queries, n_keys, dtype=torch.bool, device=device)
    if mask.segments_BT is not None:
        number_BS = torch.zeros_like(mask.segments_BT)
        number_BS[:, 1:] = (mask.segments_BT[:, 1:] != mask.segments_BT[:, :-1]).cumsum(dim=1)
        same = number_BS[:, n_keys - n_queries :, None] == number_BS[:, None, :]
    if mask.cu_seqlens_q is not None:
        cu_q, cu_k = mask.cu_seqlens_q, mask.cu_seqlens_k if mask.cu_seqlens_k is not None else mask.cu_seqlens_q
        query_document = (query_T[:, None] >= cu_q[1:]).sum(dim=1)
        key_document = (key_S[:, None] >= cu_k[1:]).sum(dim=1)
        same = (query_document[:, None] == key_document[None, :]).unsqueeze(0)
        query_from_end, key_from_end = query_T - cu_q[query_document + 1], key_S - cu_k[key_document + 1]
    ahead = key_from_end[None, :] - query_from_end[:, None]
    seen = same
    if mask.right >= 0:
        seen = seen & (ahead <= mask.right)
    if mask.left >= 0:
        seen = seen & (ahead >= -mask.left)
    return seen.unsqueeze(1)


def attention_reference(
    q_BTHD: Tensor, k_BTGD: Tensor, v_BTGD: Tensor, mask: Mask, softcap: float, scale: float
) -> tuple[Tensor, Tensor]:
    """Return (o_BTHD, the log-sum-exp of each row of scores BHT); a row that sees nothing gives 0 and -inf."""
    dtype = compute_dtype(q_BTHD)
    heads_per_group = q_BTHD.shape[2] // k_BTGD.shape[2]
    q_BHTD = q_BTHD.to(dtype).transpose(1, 2)
    k_BHTD = k_BTGD.to(dtype).transpose(1, 2).repeat_interleave(heads_per_group, dim=1)
    v_BHTD = v_BTGD.to(dtype).transpose(1, 2).repeat_interleave(heads_per_group, dim=1)
    scores_BHTT = scale * (q_BHTD @ k_BHTD.transpose(-1, -2))
    if softcap:
        scores_BHTT = softcap * torch.tanh(scores_BHTT / softcap)
    seen = seen_pairs(mask, q_BTHD.shape[1], k_BTGD.shape[1], q_BTHD.device)
    is_blind = ~seen.any(dim=-1, keepdim=True)
    # The scores of a blind row stay finite: its softmax, NaN otherwise, is thrown away, and no gradient flows into it.
    scores_BHTT = scores_BHTT.masked_fill(~(seen | is_blind), float("-inf"))
    o_BHTD = (torch.softmax(scores_BHTT, dim=-1) @ v_BHTD).masked_fill(is_blind, 0.0)
    lse_BHT = torch.logsumexp(scores_BHTT, dim=-1).masked_fill(is_blind.squeeze(-1), float("-inf"))
    lse_dtype = torch.float64 if q_BTHD.dtype == torch.float64 else torch.float32
    return o_BHTD.transpose(1, 2).to(q_BTHD.dtype), lse_BHT.to(lse_dtype)


def forward(q_BTHD: Tensor, k_BTGD: Tensor, v_BTGD: Tensor, mask: Mask, softcap: float, scale: float) -> tuple[Tensor, Tensor]:
    """Return (o_BTHD, lse_BHT)."""
    o, lse = attention_reference(q_BTHD, k_BTGD, v_BTGD, mask, softcap, scale)
    return o.contiguous(), lse.contiguous()


def backward(
    do_BTHD: Tensor,
    dlse_BHT: Tensor | None,
    q_BTHD: Tensor,
    k_BTGD: Tensor,
    v_BTGD: Tensor,
    o_BTHD: Tensor,
    lse_BHT: Tensor,
    mask: Mask,
    softcap: float,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of q, k and v by differentiating the reference itself."""

    def run(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        return attention_reference(q, k, v, mask, softcap, scale)

    _, differentiate = torch.func.vjp(run, q_BTHD, k_BTGD, v_BTGD)
    dq, dk, dv = differentiate((do_BTHD, torch.zeros_like(lse_BHT) if dlse_BHT is None else dlse_BHT))
    return dq.contiguous(), dk.contiguous(), dv.contiguous()
