"""Attention over pages with the whole matrix of scores, the truth that the other backends are tested against."""

from __future__ import annotations

import torch
from torch import Tensor

from tilth.kernels.attention_decode.pages import Pages
from tilth.kernels.backend import compute_dtype


def forward(
    q_BTHD: Tensor, pages: Pages, left: int, right: int, softcap: float, scale: float, n_splits: int
) -> tuple[Tensor, Tensor]:
    """Return (o_BTHD, lse_BHT). `n_splits` changes nothing here."""
    dtype = compute_dtype(q_BTHD)
    n_tokens, heads_per_group = q_BTHD.shape[1], q_BTHD.shape[2] // pages.k_pages.shape[2]
    key_N = torch.arange(pages.capacity, device=q_BTHD.device)
    place_BT = pages.lengths_B[:, None] - n_tokens + torch.arange(n_tokens, device=q_BTHD.device)
    seen_BTN = (key_N < pages.lengths_B[:, None, None]).expand(-1, n_tokens, -1)
    if left >= 0:
        seen_BTN = seen_BTN & (key_N >= place_BT[:, :, None] - left)
    if right >= 0:
        seen_BTN = seen_BTN & (key_N <= place_BT[:, :, None] + right)

    # What no query of the row sees may be anything, NaN included, and its table entry no page at all.
    used_BN = seen_BTN.any(dim=1)
    page_BN = torch.where(used_BN, pages.block_table_BP[:, key_N // pages.page_size], 0).long()
    k_BHND, v_BHND = (
        cache[page_BN, key_N % pages.page_size]
        .masked_fill(~used_BN[:, :, None, None], 0.0)
        .to(dtype)
        .transpose(1, 2)
        .repeat_interleave(heads_per_group, dim=1)
        for cache in (pages.k_pages, pages.v_pages)
    )
    scores_BHTN = scale * (q_BTHD.to(dtype).transpose(1, 2) @ k_BHND.transpose(-1, -2))
    if softcap > 0:
        scores_BHTN = softcap * torch.tanh(scores_BHTN / softcap)
    scores_BHTN = scores_BHTN.masked_fill(~seen_BTN[:, None], float("-inf"))
    sees_any_BT = seen_BTN.any(dim=2)
    p_BHTN = torch.softmax(scores_BHTN, dim=-1).masked_fill(~sees_any_BT[:, None, :, None], 0.0)
    o_BTHD = (p_BHTN @ v_BHND).transpose(1, 2).to(q_BTHD.dtype)
    kept = torch.float64 if q_BTHD.dtype == torch.float64 else torch.float32
    return o_BTHD.contiguous(), torch.logsumexp(scores_BHTN, dim=-1).to(kept)


def write(k_BTGD: Tensor, v_BTGD: Tensor, pages: Pages) -> None:
    """Put the newest tokens of every row into their slots."""
    pages.write(k_BTGD, v_BTGD)
