"""The chunked form of the Mamba-2 recurrence as batched matrix products, with a hand-written backward.

Within a chunk of Q tokens, y = ((C B^T) * L) (dt x) + exp(a) C S, where L[t, s] = exp(a_t - a_s) for s <= t in the same
document and a is the running sum of dt A. Nothing here is specific to the CPU but the choice of what to fuse.
Letters: c chunk, q token of a chunk, h head, g group, r head of a group, p channel, n state.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tilth.kernels.backend import compute_dtype
from tilth.kernels.documents import number_documents
from tilth.kernels.ssd_scan.inputs import ScanInputs


@dataclass(frozen=True)
class _Chunks:
    """The inputs cut into chunks and the decays between their tokens, all in the dtype of the computation."""

    x_BcqHP: Tensor
    dt_BcqH: Tensor
    B_BcGqN: Tensor
    C_BcGqN: Tensor
    decay_BcHqq: Tensor  # from token s (last) to token t; 0 where s > t or in another document
    decay_in_BcqH: Tensor  # from the state that enters the chunk to token t
    decay_out_BcqH: Tensor  # from token s to the state that leaves the chunk

    @property
    def carry(self) -> Tensor:
        """What is left of the entering state when it leaves the chunk (B, c, H)."""
        return self.decay_in_BcqH[:, :, -1]


def forward(inputs: ScanInputs, chunk_size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return (y_BTHP, final_state_BHPN, the states that enter the chunks BcHPN)."""
    chunks = _cut(inputs, chunk_size)
    n_batch, n_chunks, n_q, n_heads, head_dim = chunks.x_BcqHP.shape
    added_BcHPN = _states_added(chunks)
    states_BcHPN, final_BHPN = _pass_states(added_BcHPN, chunks.carry, inputs.initial_state_BHPN)

    weights_BcHqq = _times_scores(chunks.decay_BcHqq, _scores(chunks))
    inside_BcHqP = torch.matmul(weights_BcHqq, _by_head(chunks.x_BcqHP, chunks.dt_BcqH))
    y_BcqHP = _read_states(chunks, states_BcHPN).mul_(chunks.decay_in_BcqH.unsqueeze(-1))
    y_BcqHP += inside_BcHqP.transpose(2, 3)
    if inputs.D_H is not None:
        y_BcqHP.addcmul_(chunks.x_BcqHP, inputs.D_H.to(y_BcqHP.dtype).unsqueeze(-1))
    y_BTHP = y_BcqHP.reshape(n_batch, n_chunks * n_q, n_heads, head_dim)[:, : inputs.x_BTHP.shape[1]]
    return y_BTHP.to(inputs.x_BTHP.dtype).contiguous(), final_BHPN, states_BcHPN


def backward(
    dy_BTHP: Tensor, dfinal_BHPN: Tensor, inputs: ScanInputs, states_BcHPN: Tensor, chunk_size: int
) -> tuple[Tensor, ...]:
    """Return the gradients of x, dt, A, B, C, D and the initial state (the last two empty where not given)."""
    chunks = _cut(inputs, chunk_size)
    x, dt, dtype = chunks.x_BcqHP, chunks.dt_BcqH, chunks.x_BcqHP.dtype
    dy_BcqHP = _pad(dy_BTHP.to(dtype), x.shape[1] * x.shape[2]).reshape(x.shape)

    da_inside_BcqH, dxdt_BcqHP, dscores_BcGqq = _inside_backward(chunks, dy_BcqHP)
    dB_BcGqN = dscores_BcGqq.transpose(-1, -2) @ chunks.C_BcGqN
    dC_BcGqN = dscores_BcGqq @ chunks.B_BcGqN

    from_states_BcqHP = dy_BcqHP * chunks.decay_in_BcqH.unsqueeze(-1)
    dread = _by_group(from_states_BcqHP, chunks)
    dC_BcGqN += dread @ _group_states(states_BcHPN, chunks)
    dentering_BcHPN = (dread.transpose(-1, -2) @ chunks.C_BcGqN).reshape(states_BcHPN.shape)
    da_BcqH = (_read_states(chunks, states_BcHPN) * from_states_BcqHP).sum(dim=-1)

    dleaving_BcHPN, dinitial_BHPN = _pass_states(dentering_BcHPN, chunks.carry, dfinal_BHPN, reverse=True)
    da_BcqH[:, :, -1] += chunks.carry * (dleaving_BcHPN * states_BcHPN).sum(dim=(-1, -2))

    out_BcqH = chunks.decay_out_BcqH
    dleaving_BcGRN = _group_states(dleaving_BcHPN, chunks)
    into_states = (chunks.B_BcGqN @ dleaving_BcGRN.transpose(-1, -2)).transpose(2, 3).reshape(x.shape)
    into_states = into_states * out_BcqH.unsqueeze(-1)
    weighted_x_BcqHP = x * (out_BcqH * dt).unsqueeze(-1)
    dB_BcGqN += _by_group(weighted_x_BcqHP, chunks) @ dleaving_BcGRN
    dxdt_BcqHP += into_states
    # What token s sends to the leaving state decays by the tokens after s, so each collects from those before it.
    through_BcqH = (into_states * x).sum(dim=-1).mul_(dt)
    da_BcqH = da_BcqH.flip(2).cumsum(dim=2).flip(2).add_(da_inside_BcqH)
    da_BcqH[:, :, 1:] += through_BcqH[:, :, :-1].cumsum(dim=2)
    dx_BcqHP = dxdt_BcqHP * dt.unsqueeze(-1)
    if inputs.D_H is not None:
        dx_BcqHP.addcmul_(dy_BcqHP, inputs.D_H.to(dtype).unsqueeze(-1))
    ddt_BcqH = (dxdt_BcqHP * x).sum(dim=-1) + da_BcqH * inputs.A_H.to(dtype)
    dA_H = (da_BcqH * dt).sum(dim=(0, 1, 2))
    dD_H = dy_BTHP.new_empty((0,)) if inputs.D_H is None else (dy_BcqHP * x).sum(dim=(0, 1, 2, 4)).to(inputs.D_H.dtype)
    dinitial = dy_BTHP.new_empty((0,)) if inputs.initial_state_BHPN is None else dinitial_BHPN.to(inputs.initial_state_BHPN.dtype)
    return (
        _join(dx_BcqHP, inputs.x_BTHP),
        _join(ddt_BcqH, inputs.dt_BTH),
        dA_H.to(inputs.A_H.dtype),
        _join(dB_BcGqN.transpose(2, 3), inputs.B_BTGN),
        _join(dC_BcGqN.transpose(2, 3), inputs.C_BTGN),
        dD_H,
        dinitial,
    )


def _cut(inputs: ScanInputs, chunk_size: int) -> _Chunks:
    """Cut the inputs into chunks; the last is filled up with dt = 0, which neither decays a state nor adds to it."""
    dtype = compute_dtype(inputs.x_BTHP)
    n_batch, n_tokens = inputs.x_BTHP.shape[:2]
    n_q = chunk_size
    n_chunks = -(-n_tokens // n_q)
    x, dt, B, C = (
        _pad(tensor.to(dtype), n_chunks * n_q).reshape(n_batch, n_chunks, n_q, *tensor.shape[2:])
        for tensor in (inputs.x_BTHP, inputs.dt_BTH, inputs.B_BTGN, inputs.C_BTGN)
    )
    # float64: after one very large dt, differences of a float32 running sum would be noise.
    a_BcHq = (dt.double() * inputs.A_H.double()).transpose(2, 3).cumsum(dim=-1)
    same_Bcqq, reached_Bcq, reaching_Bcq = _same_document(inputs.segments_BT, n_batch, n_chunks, n_q, x.device)
    return _Chunks(
        x_BcqHP=x,
        dt_BcqH=dt,
        B_BcGqN=B.transpose(2, 3),
        C_BcGqN=C.transpose(2, 3),
        decay_BcHqq=_decay(a_BcHq.unsqueeze(-1) - a_BcHq.unsqueeze(-2), same_Bcqq.unsqueeze(2), dtype),
        decay_in_BcqH=_decay(a_BcHq, reached_Bcq.unsqueeze(2), dtype).transpose(2, 3).contiguous(),
        decay_out_BcqH=_decay(a_BcHq[..., -1:] - a_BcHq, reaching_Bcq.unsqueeze(2), dtype).transpose(2, 3).contiguous(),
    )


def _decay(log_decay: Tensor, seen: Tensor, dtype: torch.dtype) -> Tensor:
    """Return exp(log_decay) where `seen`, else 0.

    Bounded before exp: above the diagonal the logarithm is positive and exp would overflow; far below zero exp gives
    subnormal numbers, with which the CPU is 30 times slower. exp(-70) = 4e-31 stands for all smaller decays.
    """
    lowest = -700.0 if dtype == torch.float64 else -70.0
    return log_decay.to(dtype).clamp(lowest, 0.0).exp_().mul_(seen)


def _same_document(
    segments_BT: Tensor | None, n_batch: int, n_chunks: int, n_q: int, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Return three masks: token t sees token s; t sees the entering state; s is seen by the leaving state."""
    causal_qq = torch.ones(n_q, n_q, dtype=torch.bool, device=device).tril_()
    if segments_BT is None:
        yes = torch.ones(1, 1, n_q, dtype=torch.bool, device=device)
        return causal_qq[None, None], yes, yes
    number_BT = number_documents(segments_BT)
    n_missing = n_chunks * n_q - number_BT.shape[1]
    number_BT = torch.cat([number_BT, number_BT[:, -1:].expand(-1, n_missing)], dim=1)
    number_Bcq = number_BT.reshape(n_batch, n_chunks, n_q)
    entering_Bc1 = torch.zeros_like(number_Bcq[:, :, :1])
    entering_Bc1[:, 1:] = number_Bcq[:, :-1, -1:]
    same_Bcqq = (number_Bcq.unsqueeze(-1) == number_Bcq.unsqueeze(-2)) & causal_qq
    return same_Bcqq, number_Bcq == entering_Bc1, number_Bcq == number_Bcq[:, :, -1:]


def _inside_backward(chunks: _Chunks, dy_BcqHP: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of dt A, of dt x, and of C B^T through the tokens of the same chunk."""
    scores_BcGqq = _scores(chunks)
    dy_BcHqP = dy_BcqHP.transpose(2, 3).contiguous()
    weights_BcHqq = _times_scores(chunks.decay_BcHqq, scores_BcGqq)
    dxdt_BcHqP = weights_BcHqq.transpose(-1, -2) @ dy_BcHqP
    dweights_BcHqq = dy_BcHqP @ _by_head(chunks.x_BcqHP, chunks.dt_BcqH).transpose(-1, -2)
    dweights_BcHqq.mul_(chunks.decay_BcHqq)
    dscores_BcGqq = _split_heads(dweights_BcHqq, scores_BcGqq.shape[2]).sum(dim=3)
    dlog_BcHqq = _times_scores(dweights_BcHqq, scores_BcGqq)
    # Token t decays every pair (u, s) with s < t <= u. Their sum is taken over s, then over u, and not as row sums minus
    # column sums: those cancel only up to rounding, which one large dt would multiply into the gradient of A.
    before_BcHqq = dlog_BcHqq.cumsum(dim=-1).tril_(-1)
    da_BcHq = torch.nn.functional.pad(before_BcHqq.sum(dim=-2)[..., :-1], (1, 0))
    return da_BcHq.transpose(2, 3).contiguous(), dxdt_BcHqP.transpose(2, 3).contiguous(), dscores_BcGqq


def _pass_states(
    added_BcHPN: Tensor, carry_BcH: Tensor, first_BHPN: Tensor | None, reverse: bool = False
) -> tuple[Tensor, Tensor]:
    """Return the state that each chunk gets and the one the last hands on: S' = carry S + added.

    With `reverse` from the last chunk to the first, which is how gradients of states travel.
    """
    received_BcHPN = torch.empty_like(added_BcHPN)
    state = torch.zeros_like(added_BcHPN[:, 0]) if first_BHPN is None else first_BHPN.to(added_BcHPN.dtype, copy=True)
    order = range(added_BcHPN.shape[1])
    for c in reversed(order) if reverse else order:
        received_BcHPN[:, c] = state
        state.mul_(carry_BcH[:, c, :, None, None]).add_(added_BcHPN[:, c])
    return received_BcHPN, state.contiguous()


def _states_added(chunks: _Chunks) -> Tensor:
    """Return what the tokens of each chunk add to the state that leaves it (B, c, H, P, N)."""
    weighted_x_BcqHP = chunks.x_BcqHP * (chunks.decay_out_BcqH * chunks.dt_BcqH).unsqueeze(-1)
    added = _by_group(weighted_x_BcqHP, chunks).transpose(-1, -2) @ chunks.B_BcGqN
    n_batch, n_chunks, _, n_heads, head_dim = chunks.x_BcqHP.shape
    return added.reshape(n_batch, n_chunks, n_heads, head_dim, added.shape[-1])


def _read_states(chunks: _Chunks, states_BcHPN: Tensor) -> Tensor:
    """Return C S for the entering states, without their decay (B, c, q, H, P)."""
    read_BcGqR = chunks.C_BcGqN @ _group_states(states_BcHPN, chunks).transpose(-1, -2)
    return read_BcGqR.transpose(2, 3).reshape(chunks.x_BcqHP.shape)


def _scores(chunks: _Chunks) -> Tensor:
    """Return C B^T, computed once for the heads that share a group (B, c, G, q, q)."""
    return chunks.C_BcGqN @ chunks.B_BcGqN.transpose(-1, -2)


def _times_scores(decay_BcHqq: Tensor, scores_BcGqq: Tensor) -> Tensor:
    """Multiply every head by the scores of its group without a copy of the scores per head."""
    return (_split_heads(decay_BcHqq, scores_BcGqq.shape[2]) * scores_BcGqq.unsqueeze(3)).reshape(decay_BcHqq.shape)


def _split_heads(per_head_BcHqq: Tensor, n_groups: int) -> Tensor:
    return per_head_BcHqq.unflatten(2, (n_groups, per_head_BcHqq.shape[2] // n_groups))


def _by_head(x_BcqHP: Tensor, scale_BcqH: Tensor) -> Tensor:
    """Return x * scale laid out (B, c, H, q, P), so that the batched product after it copies nothing."""
    x_BcHqP = x_BcqHP.transpose(2, 3)
    out = torch.empty(x_BcHqP.shape, dtype=x_BcqHP.dtype, device=x_BcqHP.device)
    return torch.mul(x_BcHqP, scale_BcqH.transpose(2, 3).unsqueeze(-1), out=out)


def _by_group(x_BcqHP: Tensor, chunks: _Chunks) -> Tensor:
    """Return x as (B, c, G, q, channels of all the heads of a group): one wide product instead of one per head."""
    n_batch, n_chunks, n_q, n_heads, head_dim = x_BcqHP.shape
    n_groups = chunks.B_BcGqN.shape[2]
    return x_BcqHP.reshape(n_batch, n_chunks, n_q, n_groups, n_heads // n_groups * head_dim).transpose(2, 3)


def _group_states(states_BcHPN: Tensor, chunks: _Chunks) -> Tensor:
    n_batch, n_chunks, n_heads, head_dim, d_state = states_BcHPN.shape
    n_groups = chunks.B_BcGqN.shape[2]
    return states_BcHPN.reshape(n_batch, n_chunks, n_groups, n_heads // n_groups * head_dim, d_state)


def _pad(tensor_BT: Tensor, n_tokens: int) -> Tensor:
    """Fill dimension 1 up with zeros to `n_tokens`."""
    n_missing = n_tokens - tensor_BT.shape[1]
    if n_missing == 0:
        return tensor_BT
    return torch.cat([tensor_BT, tensor_BT.new_zeros(tensor_BT.shape[0], n_missing, *tensor_BT.shape[2:])], dim=1)


def _join(chunked_Bcq: Tensor, like_BT: Tensor) -> Tensor:
    """Undo the cutting: flatten chunks, drop the filling, return to the dtype of the input."""
    n_batch, n_tokens = like_BT.shape[:2]
    # Not -1: an empty batch has no elements to infer a size from.
    flat = chunked_Bcq.reshape(n_batch, chunked_Bcq.shape[1] * chunked_Bcq.shape[2], *like_BT.shape[2:])
    return flat[:, :n_tokens].to(like_BT.dtype).contiguous()
