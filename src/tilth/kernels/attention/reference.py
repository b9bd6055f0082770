"""Softmax attention with the whole matrix of scores, the truth that the other backends are tested against."""

from __future__ import annotations

import torch
from torch import Tensor

from tilth.kernels.backend import compute_dtype


def visible(n_queries: int, n_keys: int, causal: bool, segments_BT: Tensor | None, device: torch.device) -> Tensor:
    """Return which key each query sees: bool (1 or B, 1, n_queries, n_keys); the queries are the last rows of the keys."""
    seen = torch.ones(1, 1, n_queries, n_keys, dtype=torch.bool, device=device)
    if causal:
        seen = seen.tril(n_keys - n_queries)
    if segments_BT is not None:
        same_BTT = segments_BT[:, n_keys - n_queries :, None] == segments_BT[:, None, :]
        seen = seen & same_BTT.unsqueeze(1)
    return seen


def attention_reference(
    q_BTHD: Tensor, k_BTGD: Tensor, v_BTGD: Tensor, segments_BT: Tensor | None, causal: bool, scale: float
) -> tuple[Tensor, Tensor]:
    """Return (o_BTHD, the log-sum-exp of each row of scores BHT)."""
    dtype = compute_dtype(q_BTHD)
    heads_per_group = q_BTHD.shape[2] // k_BTGD.shape[2]
    q_BHTD = q_BTHD.to(dtype).transpose(1, 2)
    k_BHTD = k_BTGD.to(dtype).transpose(1, 2).repeat_interleave(heads_per_group, dim=1)
    v_BHTD = v_BTGD.to(dtype).transpose(1, 2).repeat_interleave(heads_per_group, dim=1)
    scores_BHTT = scale * (q_BHTD @ k_BHTD.transpose(-1, -2))
    seen = visible(q_BTHD.shape[1], k_BTGD.shape[1], causal, segments_BT, q_BTHD.device)
    scores_BHTT = scores_BHTT.masked_fill(~seen, float("-inf"))
    o_BHTD = torch.softmax(scores_BHTT, dim=-1) @ v_BHTD
    return o_BHTD.transpose(1, 2).to(q_BTHD.dtype), torch.logsumexp(scores_BHTT, dim=-1)


def forward(
    q_BTHD: Tensor, k_BTGD: Tensor, v_BTGD: Tensor, segments_BT: Tensor | None, causal: bool, scale: float
) -> tuple[Tensor, Tensor]:
    """Return (o_BTHD, lse_BHT)."""
    o, lse = attention_reference(q_BTHD, k_BTGD, v_BTGD, segments_BT, causal, scale)
    return o.contiguous(), lse.contiguous()


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
    """Return the gradients of q, k and v by differentiating the reference itself."""

    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return attention_reference(q, k, v, segments_BT, causal, scale)[0]

    _, differentiate = torch.func.vjp(run, q_BTHD, k_BTGD, v_BTGD)
    dq, dk, dv = differentiate(do_BTHD)
    return dq.contiguous(), dk.contiguous(), dv.contiguous()
