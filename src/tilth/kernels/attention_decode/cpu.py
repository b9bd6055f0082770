"""Attention over pages on the CPU: each row's pages gathered once, its queries one small matrix for each group."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from tilth.kernels.attention_decode.pages import Pages
from tilth.kernels.backend import compute_dtype

# What F.scaled_dot_product_attention calls on the CPU; called directly because it also returns the log-sum-exp.
_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default


def forward(
    q_BTHD: Tensor, pages: Pages, left: int, right: int, softcap: float, scale: float, n_splits: int
) -> tuple[Tensor, Tensor]:
    """Return (o_BTHD, lse_BHT). A row at a time, so that no row's result depends on another; `n_splits` changes nothing."""
    n_tokens, n_heads = q_BTHD.shape[1:3]
    lengths = pages.lengths_B.tolist()
    if n_tokens == 1 and left < 0 and not softcap and min(lengths, default=0) > 0:
        if max(lengths) <= pages.page_size:
            return _forward_one(q_BTHD, (_of_one_page(pages, row, length) for row, length in enumerate(lengths)), scale)
        if pages.page_size == 1:
            return _forward_one(q_BTHD, _of_slots(pages, lengths), scale)
    o_BTHD = torch.zeros_like(q_BTHD, memory_format=torch.contiguous_format)
    lse_BHT = q_BTHD.new_full((len(q_BTHD), n_heads, n_tokens), float("-inf"), dtype=compute_dtype(q_BTHD))
    for row, length in enumerate(lengths):
        first = 0 if left < 0 else max(0, length - n_tokens - left)
        used = pages.used_by(row, first, length)
        if length > 0:
            k_GND, v_GND = _keys_and_values(pages, used, first, length)
            mask_TN = _mask(first, length, n_tokens, left, right)
            _attend(q_BTHD[row], k_GND, v_GND, mask_TN, softcap, scale, o_BTHD[row], lse_BHT[row])
    return o_BTHD, lse_BHT


def _forward_one(q_B1HD: Tensor, kept: Iterator[tuple[Tensor, Tensor]], scale: float) -> tuple[Tensor, Tensor]:
    """One new token for each row over its keys and values (N, G, D), as in a batch that is generated: as few calls as can be."""
    n_rows, _, n_heads, head_dim = q_B1HD.shape
    found = []
    for q_HD, (k_NGD, v_NGD) in zip(q_B1HD.unbind(0), kept, strict=True):
        q_1GRD = q_HD.reshape(1, k_NGD.shape[1], -1, head_dim)
        k_1GND, v_1GND = k_NGD.transpose(0, 1).unsqueeze(0), v_NGD.transpose(0, 1).unsqueeze(0)
        found.append(_flash(q_1GRD, k_1GND, v_1GND, 0.0, False, scale=scale))
    o_BGRD, lse_BGR = (torch.cat(column) for column in zip(*found, strict=True))
    return o_BGRD.reshape(q_B1HD.shape), lse_BGR.reshape(n_rows, n_heads, 1)


def _of_one_page(pages: Pages, row: int, length: int) -> tuple[Tensor, Tensor]:
    (page,) = pages.used_by(row, 0, length)
    return pages.k_pages[page, :length], pages.v_pages[page, :length]


def _of_slots(pages: Pages, lengths: list[int]) -> Iterator[tuple[Tensor, Tensor]]:
    """The keys and values of each row with a page for each token: a view where they follow each other, else gathered.

    What a row begins with as the row gathered before it did, as samples of one prompt do, is not gathered again.
    """
    gathered: tuple[Tensor, ...] = ()
    before = pages.block_table_BP[0, :0]
    for row, length in enumerate(lengths):
        slots_N = pages.block_table_BP[row, :length]
        low, high = (int(end) for end in slots_N.aminmax())
        if len(slots_N) < length or low < 0 or high >= len(pages.k_pages):
            pages.used_by(row, 0, length)  # raises
        if high - low == length - 1 and slots_N.equal(torch.arange(low, high + 1, dtype=torch.int32)):
            yield pages.k_pages[low : high + 1, 0], pages.v_pages[low : high + 1, 0]
            continue
        caches = pages.k_pages[:, 0], pages.v_pages[:, 0]
        gathered = gathered or tuple(cache.new_empty(max(lengths), *cache.shape[1:]) for cache in caches)
        n_same = _common_length(before, slots_N)
        for cache, copy in zip(caches, gathered, strict=True):
            torch.index_select(cache, 0, slots_N[n_same:], out=copy[n_same:length])
        before = slots_N
        yield gathered[0][:length], gathered[1][:length]


def _common_length(a_N: Tensor, b_N: Tensor) -> int:
    n_both = min(len(a_N), len(b_N))
    differs_N = a_N[:n_both] != b_N[:n_both]
    return int(differs_N.to(torch.uint8).argmax()) if n_both and bool(differs_N.any()) else n_both


def write(k_BTGD: Tensor, v_BTGD: Tensor, pages: Pages) -> None:
    """Put the newest tokens of every row into their slots."""
    for row, length in enumerate(pages.lengths_B.tolist()):
        pages.used_by(row, max(0, length - k_BTGD.shape[1]), length)
    pages.write(k_BTGD, v_BTGD)


def _keys_and_values(pages: Pages, used: list[int], first: int, length: int) -> tuple[Tensor, Tensor]:
    """Return the keys and values (G, N, D) of tokens first to length - 1: without a copy where their pages follow each other."""
    skipped = first % pages.page_size
    kept = slice(skipped, skipped + length - first)
    follow_each_other = used == list(range(used[0], used[0] + len(used)))
    which = torch.tensor(used, dtype=torch.int32)
    k_GND, v_GND = (
        (cache[used[0] : used[-1] + 1] if follow_each_other else cache.index_select(0, which)).flatten(0, 1)[kept].transpose(0, 1)
        for cache in (pages.k_pages, pages.v_pages)
    )
    return k_GND, v_GND


def _mask(first: int, length: int, n_tokens: int, left: int, right: int) -> Tensor | None:
    """Return which of the keys first to length - 1 each new token sees, or None where all see all."""
    if n_tokens == 1 or (right < 0 and left < 0):
        return None  # one token sees all from `first` on, which the window chose
    key_N = torch.arange(first, length)
    place_T1 = torch.arange(length - n_tokens, length).unsqueeze(1)
    seen_TN = key_N >= place_T1 - left if left >= 0 else torch.ones(n_tokens, len(key_N), dtype=torch.bool)
    return seen_TN if right < 0 else seen_TN & (key_N <= place_T1 + right)


def _attend(
    q_THD: Tensor,
    k_GND: Tensor,
    v_GND: Tensor,
    seen_TN: Tensor | None,
    softcap: float,
    scale: float,
    o_THD: Tensor,
    lse_HT: Tensor,
) -> None:
    """Write one row's output and log-sum-exp. The heads of a group become rows of one matrix, so that they share its keys."""
    n_tokens, n_heads, head_dim = q_THD.shape
    n_groups = k_GND.shape[0]
    n_rows = n_heads // n_groups * n_tokens
    q_GRD = q_THD.transpose(0, 1).reshape(n_groups, n_rows, head_dim)
    bias_RN = None
    if seen_TN is not None:
        bias_TN = torch.zeros(seen_TN.shape, dtype=q_THD.dtype).masked_fill_(~seen_TN, float("-inf"))
        bias_RN = bias_TN.repeat(n_rows // n_tokens, 1)
    if softcap > 0:
        o_GRD, lse_GR = _with_softcap(q_GRD, k_GND, v_GND, bias_RN, softcap, scale)
    else:
        o, lse = _flash(q_GRD[None], k_GND[None], v_GND[None], 0.0, False, attn_mask=bias_RN, scale=scale)
        o_GRD, lse_GR = o[0], lse[0]
    lse_HT.copy_(lse_GR.reshape(n_heads, n_tokens))
    o_THD.copy_(o_GRD.reshape(n_heads, n_tokens, head_dim).transpose(0, 1))
    if seen_TN is not None:  # a length below T: its first queries have no place
        blind_T = ~seen_TN.any(dim=1)
        o_THD[blind_T] = 0.0
        lse_HT[:, blind_T] = float("-inf")


def _with_softcap(
    q_GRD: Tensor, k_GND: Tensor, v_GND: Tensor, bias_RN: Tensor | None, softcap: float, scale: float
) -> tuple[Tensor, Tensor]:
    dtype = compute_dtype(q_GRD)
    scores = torch.bmm(q_GRD.to(dtype), k_GND.to(dtype).transpose(1, 2)).mul_(scale / softcap).tanh_().mul_(softcap)
    if bias_RN is not None:
        scores += bias_RN
    return torch.bmm(torch.softmax(scores, dim=-1), v_GND.to(dtype)), torch.logsumexp(scores, dim=-1)
