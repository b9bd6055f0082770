"""Attention on the CPU: torch's own flash kernel on pieces of the mask, and matrix products where it lacks something.

The kernel knows no documents, windows or soft caps, and no gradient of the log-sum-exp. So the queries are cut into
pieces that see one run of keys (pieces.py), and what it cannot do is done piece by piece with a few temporaries.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tilth.kernels.attention.pieces import Piece, cut
from tilth.kernels.attention.visible import Mask
from tilth.kernels.backend import compute_dtype

# What F.scaled_dot_product_attention calls on the CPU. Called directly because it also returns the log-sum-exp, without
# which the backward would have to run the forward once more. It repeats keys and values for the heads of a group itself.
_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default
_flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward.default
# Queries of a piece that is computed by matrix products: its scores then stay in the cache.
_ROWS_OF_PRODUCTS = 64


def plain(q_BTHD: Tensor, k_BTGD: Tensor, v_BTGD: Tensor, is_causal: bool, scale: float) -> Tensor:
    """Return o_BTHD where torch's kernel does the whole call: one run of keys for all, or causal with as many queries.

    Its operator carries its own gradient: a layer of dispatch around it would cost as much as a short call.
    """
    n_batch, n_queries, n_heads, head_dim = q_BTHD.shape
    n_groups = k_BTGD.shape[2]
    k_BGTD, v_BGTD = _channels_last(k_BTGD).transpose(1, 2), _channels_last(v_BTGD).transpose(1, 2)
    if n_queries == 1 and n_groups < n_heads:
        # Decoding: the heads of a group as the rows of one, so that their keys are read once.
        q_BGRD = q_BTHD.reshape(n_batch, n_groups, n_heads // n_groups, head_dim)
        return _flash(q_BGRD, k_BGTD, v_BGTD, 0.0, False, scale=scale)[0].reshape(q_BTHD.shape)
    q_BHTD = _channels_last(q_BTHD).transpose(1, 2)
    return _flash(q_BHTD, k_BGTD, v_BGTD, 0.0, is_causal, scale=scale)[0].transpose(1, 2)


def forward(q_BTHD: Tensor, k_BTGD: Tensor, v_BTGD: Tensor, mask: Mask, softcap: float, scale: float) -> tuple[Tensor, Tensor]:
    """Return (o_BTHD, lse_BHT)."""
    n_batch, n_queries, n_heads, _ = q_BTHD.shape
    o = torch.zeros(q_BTHD.shape, dtype=q_BTHD.dtype)
    lse = torch.full((n_batch, n_heads, n_queries), float("-inf"), dtype=compute_dtype(q_BTHD))
    if o.numel() == 0:
        return o, lse
    q, k, v = (_channels_last(tensor).transpose(1, 2) for tensor in (q_BTHD, k_BTGD, v_BTGD))
    mask = _without_single_documents(mask)
    for piece in cut(mask, n_queries, k.shape[2], q.device, _ROWS_OF_PRODUCTS if softcap else None):
        if piece.keys.stop == piece.keys.start:
            continue
        rows, queries, keys = piece.rows, piece.queries, piece.keys
        inputs = (q[rows, :, queries], k[rows, :, keys], v[rows, :, keys])
        if softcap:
            found, found_lse = _products(*inputs, piece, softcap, scale)
        else:
            found, found_lse = _flash(*inputs, 0.0, piece.is_causal, attn_mask=_additive(piece, q.dtype), scale=scale)
        o[rows, queries] = found.transpose(1, 2)
        lse[rows, :, queries] = found_lse if piece.hidden is None else _blind_to_minus_infinity(found_lse, piece.hidden)
    return o, lse


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
    """Return the gradients of q, k and v."""
    dq = torch.zeros(q_BTHD.shape, dtype=q_BTHD.dtype)
    # Pieces may share keys: what they give is added up in the precision of the computation.
    dk, dv = (torch.zeros(k_BTGD.shape, dtype=compute_dtype(k_BTGD)) for _ in range(2))
    q, k, v, o, do = (_channels_last(t).transpose(1, 2) for t in (q_BTHD, k_BTGD, v_BTGD, o_BTHD, do_BTHD))
    if q.numel() == 0 or k.numel() == 0:
        return dq, dk.to(k.dtype), dv.to(v.dtype)
    by_products = softcap > 0 or dlse_BHT is not None
    lse = lse_BHT.masked_fill(lse_BHT == float("-inf"), 0.0)  # of rows that see nothing: their scores are all hidden
    mask = _without_single_documents(mask)
    for piece in cut(mask, q.shape[2], k.shape[2], q.device, _ROWS_OF_PRODUCTS if by_products else None):
        if piece.keys.stop == piece.keys.start:
            continue
        rows, queries, keys = piece.rows, piece.queries, piece.keys
        at_queries, at_keys = (rows, slice(None), queries), (rows, slice(None), keys)
        inputs = (do[at_queries], q[at_queries], k[at_keys], v[at_keys])
        if by_products:
            dlse = None if dlse_BHT is None else dlse_BHT[at_queries]
            found = _products_backward(*inputs, dlse, piece, softcap, scale)
        else:
            stored = (o[at_queries], lse[at_queries])
            found = _flash_backward(*inputs, *stored, 0.0, piece.is_causal, attn_mask=_additive(piece, q.dtype), scale=scale)
        dq[rows, queries] = found[0].transpose(1, 2)
        dk[rows, keys] += found[1].transpose(1, 2)
        dv[rows, keys] += found[2].transpose(1, 2)
    return dq, dk.to(k.dtype), dv.to(v.dtype)


def _products(q: Tensor, k: Tensor, v: Tensor, piece: Piece, softcap: float, scale: float) -> tuple[Tensor, Tensor]:
    """Return o (B, H, T, D) and the log-sum-exp (B, H, T) of one piece."""
    dtype = compute_dtype(q)
    scores_BGMS = _scores(q.to(dtype), k.to(dtype), softcap, scale)
    lse_BGM = torch.logsumexp(_hide(scores_BGMS, piece), dim=-1)
    return (_weights(scores_BGMS, piece) @ v.to(dtype)).reshape(q.shape), lse_BGM.reshape(q.shape[:3])


def _products_backward(
    do: Tensor, q: Tensor, k: Tensor, v: Tensor, dlse: Tensor | None, piece: Piece, softcap: float, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of one piece; M, the rows of a group, is its heads times the queries.

    A piece holds whole rows of scores, so softmax and its gradient are computed as such and not from the log-sum-exp,
    which would round twice.
    """
    dtype, shape = compute_dtype(q), q.shape
    q, k, v, do = (tensor.to(dtype) for tensor in (q, k, v, do))
    q_BGMD, do_BGMD = _group_rows(q, k.shape[1]), _group_rows(do, k.shape[1])
    scores_BGMS = _scores(q, k, softcap, scale)
    slope_BGMS = 1 - (scores_BGMS / softcap).square() if softcap else None
    weights_BGMS = _weights(_hide(scores_BGMS, piece), piece)
    dv = weights_BGMS.mT @ do_BGMD
    dscores_BGMS = (do_BGMD @ v.mT).mul_(weights_BGMS)
    delta_BGM1 = dscores_BGMS.sum(dim=-1, keepdim=True)
    if dlse is not None:
        delta_BGM1 -= dlse.reshape(delta_BGM1.shape)
    dscores_BGMS.addcmul_(weights_BGMS, delta_BGM1, value=-1)
    if slope_BGMS is not None:
        dscores_BGMS.mul_(slope_BGMS)
    dq = (dscores_BGMS @ k).mul_(scale).reshape(shape)
    return dq, (dscores_BGMS.mT @ q_BGMD).mul_(scale), dv


def _scores(q_BHTD: Tensor, k_BGSD: Tensor, softcap: float, scale: float) -> Tensor:
    """Return scale * q k^T, bent by the soft cap, as (B, G, heads of the group times queries, keys)."""
    scores_BGMS = (_group_rows(q_BHTD, k_BGSD.shape[1]) @ k_BGSD.mT).mul_(scale)
    return scores_BGMS.div_(softcap).tanh_().mul_(softcap) if softcap else scores_BGMS


def _weights(scores_BGMS: Tensor, piece: Piece) -> Tensor:
    weights_BGMS = torch.softmax(scores_BGMS, dim=-1)
    if piece.hidden is not None and piece.hidden.all(dim=-1).any():  # rows that see nothing, and are NaN
        n_queries = piece.hidden.shape[0]
        is_blind_M1 = piece.hidden.all(dim=-1, keepdim=True).repeat(weights_BGMS.shape[2] // n_queries, 1)
        weights_BGMS.masked_fill_(is_blind_M1, 0.0)
    return weights_BGMS


def _group_rows(tensor_BHTD: Tensor, n_groups: int) -> Tensor:
    """(B, H, T, D) -> (B, G, H / G * T, D): no key or value need be repeated for the heads of its group."""
    n_batch, n_heads, n_queries, head_dim = tensor_BHTD.shape
    return tensor_BHTD.reshape(n_batch, n_groups, n_heads // n_groups * n_queries, head_dim)


def _hide(scores_BGMS: Tensor, piece: Piece) -> Tensor:
    """Set what the piece does not see to -inf, in place."""
    if piece.hidden is not None:
        n_queries, n_keys = piece.hidden.shape
        scores_BGMS.view(*scores_BGMS.shape[:2], -1, n_queries, n_keys).masked_fill_(piece.hidden, float("-inf"))
    return scores_BGMS


def _additive(piece: Piece, dtype: torch.dtype) -> Tensor | None:
    return (
        None if piece.hidden is None else torch.zeros(piece.hidden.shape, dtype=dtype).masked_fill_(piece.hidden, float("-inf"))
    )


def _blind_to_minus_infinity(lse_BHT: Tensor, hidden: Tensor) -> Tensor:
    return lse_BHT.masked_fill(hidden.all(dim=-1), float("-inf"))


def _without_single_documents(mask: Mask) -> Mask:
    """Forget segments that are one document a row."""
    if mask.segments_BT is None or bool((mask.segments_BT[:, 1:] != mask.segments_BT[:, :-1]).any()):
        return mask
    return mask._replace(segments_BT=None)


def _channels_last(tensor: Tensor) -> Tensor:
    """The kernel wants the channels of a head side by side; the other dimensions may be strided."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()
