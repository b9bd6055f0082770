"""The selective scan on the CPU: chunk by chunk, with the exponentials and products of a chunk as few large operations.

What is left for a loop over tokens is one multiply-add of the states. Where those are small a chunk is cut again into
runs, that take their steps side by side: first each from 0, to know what it hands on, then from the state it is handed.
Letters: t token of a chunk, G group, N state, p channel of a group; channels lie last, so that every operation runs
along them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import silu, softplus

from tilth.kernels.backend import compute_dtype
from tilth.kernels.documents import first_tokens
from tilth.kernels.selective_scan.inputs import CHUNK, SelectiveInputs, StepInputs
from tilth.kernels.selective_scan.step import step_by

_TILE = 2**20  # values of the decays of some rows in one chunk
_SMALL = 2**15  # states of so few values are cut into _RUNS runs: the call of an operation costs more than its work
_RUNS = 8


def forward(inputs: SelectiveInputs, dt_softplus: bool, reverse: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return (y_BTC, final_state_BCN, the states that enter the chunks BcCN)."""
    u_BTC, dtype = inputs.u_BTC, compute_dtype(inputs.u_BTC)
    n_batch, _, n_channels = u_BTC.shape
    n_groups, d_state = inputs.B_BTGN.shape[2:]
    y_BTC = torch.empty(u_BTC.shape, dtype=u_BTC.dtype)
    final_BCN = torch.empty(n_batch, n_channels, d_state, dtype=dtype)
    states_BcCN = torch.empty(n_batch, inputs.n_chunks, n_channels, d_state, dtype=dtype)
    A_GNp = _by_group(inputs.A_CN.to(dtype), n_groups)
    scratch = _scratch(inputs, 2, dtype)
    for rows in _row_tiles(inputs):
        state_BGNp = _initial(inputs, rows, dtype)
        for c in _chunk_order(inputs, reverse):
            chunk = _Chunk.of(inputs, A_GNp, rows, c, dt_softplus, reverse, scratch)
            states_BcCN[rows, c] = _by_channel(state_BGNp)
            states_BtGNp = chunk.added()
            state_BGNp = _scan(chunk.decay_BtGNp, states_BtGNp, state_BGNp, reverse)
            y_BTC[rows, chunk.tokens] = chunk.output(states_BtGNp, gated=True)
        final_BCN[rows] = _by_channel(state_BGNp)
    return y_BTC, final_BCN, states_BcCN


def backward(
    dy_BTC: Tensor, dfinal_BCN: Tensor, inputs: SelectiveInputs, states_BcCN: Tensor, dt_softplus: bool, reverse: bool
) -> tuple[Tensor, ...]:
    """Return the gradients of all inputs but the documents, in their order; empty where not given."""
    dtype = compute_dtype(inputs.u_BTC)
    n_groups = inputs.B_BTGN.shape[2]
    A_GNp = _by_group(inputs.A_CN.to(dtype), n_groups)
    found = {
        name: torch.zeros(tensor.shape, dtype=dtype if name in ("A_CN", "D_C", "dt_bias_C") else tensor.dtype)
        for name, tensor in inputs._asdict().items()
        if tensor is not None and name != "segments_BT"
    }
    scratch = _scratch(inputs, 4, dtype)
    for rows in _row_tiles(inputs):
        handed_BGNp = _by_group(dfinal_BCN[rows].to(dtype), n_groups)
        for c in reversed(_chunk_order(inputs, reverse)):
            chunk = _Chunk.of(inputs, A_GNp, rows, c, dt_softplus, reverse, scratch)
            entering_BGNp = _by_group(states_BcCN[rows, c], n_groups)
            handed_BGNp = _chunk_backward(chunk, dy_BTC[rows, chunk.tokens].to(dtype), entering_BGNp, handed_BGNp, found)
        if inputs.initial_state_BCN is not None:
            found["initial_state_BCN"][rows] = _by_channel(handed_BGNp).to(inputs.initial_state_BCN.dtype)
    return tuple(
        found[name].to(tensor.dtype) if tensor is not None else dy_BTC.new_empty((0,))
        for name, tensor in inputs._asdict().items()
        if name != "segments_BT"
    )


def step(inputs: StepInputs, dt_softplus: bool) -> Tensor:
    """Return y_BC of one more token and replace the states."""
    return step_by(forward, inputs, dt_softplus)


@dataclass(frozen=True)
class _Chunk:
    """Some tokens of some rows in the dtype of the computation, and the decay that each token's state undergoes."""

    rows: slice
    tokens: slice
    reverse: bool
    dt_softplus: bool
    u_BtC: Tensor
    raw_dt_BtC: Tensor
    dt_BtC: Tensor
    A_GNp: Tensor
    B_BtGN: Tensor
    C_BtGN: Tensor
    D_C: Tensor | None
    z_BtC: Tensor | None
    decay_BtGNp: Tensor  # 0 where a document begins
    scratch: list[Tensor]  # of the shape of the decays

    @classmethod
    def of(
        cls, inputs: SelectiveInputs, A_GNp: Tensor, rows: slice, c: int, dt_softplus: bool, reverse: bool, scratch: Tensor
    ) -> _Chunk:
        dtype = A_GNp.dtype
        tokens = slice(c * CHUNK, min((c + 1) * CHUNK, inputs.u_BTC.shape[1]))
        u, raw_dt, B, C = (t[rows, tokens].to(dtype) for t in (inputs.u_BTC, inputs.dt_BTC, inputs.B_BTGN, inputs.C_BTGN))
        if inputs.dt_bias_C is not None:
            raw_dt = raw_dt + inputs.dt_bias_C.to(dtype)
        dt = softplus(raw_dt) if dt_softplus else raw_dt
        shape = (*u.shape[:2], *A_GNp.shape)
        decay, *others = (buffer[: math.prod(shape)].view(shape) for buffer in scratch)
        torch.mul(_heads(dt, A_GNp).unsqueeze(-2), A_GNp, out=decay)
        # Bounded before exp: subnormal numbers make the CPU 30 times slower. exp(-70) = 4e-31 stands for all smaller decays.
        decay.clamp_(min=-700.0 if dtype == torch.float64 else -70.0).exp_()
        if inputs.segments_BT is not None:
            decay[first_tokens(inputs.segments_BT[rows], reverse)[:, tokens]] = 0.0
        return cls(
            rows, tokens, reverse, dt_softplus, u, raw_dt, dt, A_GNp, B, C,
            None if inputs.D_C is None else inputs.D_C.to(dtype),
            None if inputs.z_BTC is None else inputs.z_BTC[rows, tokens].to(dtype),
            decay, others,
        )  # fmt: skip

    def added(self) -> Tensor:
        """Return what each token adds to the state (B, t, G, N, p)."""
        added_BtGp = _heads(self.dt_BtC * self.u_BtC, self.A_GNp)
        return torch.mul(added_BtGp.unsqueeze(-2), self.B_BtGN.unsqueeze(-1), out=self.scratch[0])

    def output(self, states_BtGNp: Tensor, gated: bool) -> Tensor:
        """Return h C + D u, times silu(z) if `gated` (B, t, C)."""
        y_BtC = (self.C_BtGN.unsqueeze(-2) @ states_BtGNp).reshape(self.u_BtC.shape)
        if self.D_C is not None:
            y_BtC.addcmul_(self.u_BtC, self.D_C)
        return y_BtC.mul_(silu(self.z_BtC)) if gated and self.z_BtC is not None else y_BtC


def _chunk_backward(
    chunk: _Chunk, dy_BtC: Tensor, entering_BGNp: Tensor, handed_BGNp: Tensor, found: dict[str, Tensor]
) -> Tensor:
    """Write and add the chunk's gradients to `found`; return that of the state that enters the chunk.

    handed_BGNp: the gradient of the state that leaves it.
    """
    at = (chunk.rows, chunk.tokens)
    decay, reverse = chunk.decay_BtGNp, chunk.reverse
    states_BtGNp = chunk.added()
    _scan(decay, states_BtGNp, entering_BGNp, reverse)
    if chunk.z_BtC is not None:
        found["z_BTC"][at] = torch.ops.aten.silu_backward(dy_BtC * chunk.output(states_BtGNp, gated=False), chunk.z_BtC)
        dy_BtC = dy_BtC * silu(chunk.z_BtC)
    dy_BtGp = _heads(dy_BtC, chunk.A_GNp)
    # Products and sums over channels, and not a matrix product: torch adds up in pairs, which loses less.
    shifted = chunk.scratch[2]
    found["C_BTGN"][at] = torch.mul(states_BtGNp, dy_BtGp.unsqueeze(-2), out=shifted).sum(dim=-1)

    dstates_BtGNp = torch.mul(dy_BtGp.unsqueeze(-2), chunk.C_BtGN.unsqueeze(-1), out=chunk.scratch[1])
    _scan(_shift(decay, torch.ones_like(decay[:, 0]), not reverse, out=shifted), dstates_BtGNp, handed_BGNp, not reverse)
    last = -1 if reverse else 0
    handed_BGNp = decay[:, last] * dstates_BtGNp[:, last]

    added_BtGp = _heads(chunk.dt_BtC * chunk.u_BtC, chunk.A_GNp)
    found["B_BTGN"][at] = torch.mul(dstates_BtGNp, added_BtGp.unsqueeze(-2), out=shifted).sum(dim=-1)
    dadded_BtC = (chunk.B_BtGN.unsqueeze(-2) @ dstates_BtGNp).reshape(dy_BtC.shape)
    # The gradient of dt A, through the decay.
    dlog_BtGNp = _shift(states_BtGNp, entering_BGNp, reverse, out=shifted).mul_(decay).mul_(dstates_BtGNp)
    ddt_BtC = torch.mul(dlog_BtGNp, chunk.A_GNp, out=dstates_BtGNp).sum(dim=-2).reshape(dy_BtC.shape)
    ddt_BtC.addcmul_(dadded_BtC, chunk.u_BtC)
    dA_GNp = dlog_BtGNp.mul_(_heads(chunk.dt_BtC, chunk.A_GNp).unsqueeze(-2)).sum(dim=(0, 1))
    found["A_CN"] += _by_channel(dA_GNp.unsqueeze(0))[0]
    du_BtC = dadded_BtC.mul_(chunk.dt_BtC)
    if chunk.D_C is not None:
        found["D_C"] += (dy_BtC * chunk.u_BtC).sum(dim=(0, 1))
        du_BtC.addcmul_(dy_BtC, chunk.D_C)
    found["u_BTC"][at] = du_BtC
    if chunk.dt_softplus:
        ddt_BtC.mul_(torch.sigmoid(chunk.raw_dt_BtC))
    found["dt_BTC"][at] = ddt_BtC
    if "dt_bias_C" in found:
        found["dt_bias_C"] += ddt_BtC.sum(dim=(0, 1))
    return handed_BGNp


def _scan(decay_BtGNp: Tensor, added_BtGNp: Tensor, entering_BGNp: Tensor, reverse: bool) -> Tensor:
    """Turn what each token adds into the state after it, h_t = decay_t h_{t-1} + added_t, in place; return the last state."""
    n_batch, n_tokens, *state = decay_BtGNp.shape
    is_small = n_tokens == CHUNK and entering_BGNp.numel() < _SMALL
    shape = (n_batch, _RUNS if is_small else 1, n_tokens // _RUNS if is_small else n_tokens, *state)
    decay, added = decay_BtGNp.view(shape), added_BtGNp.view(shape)
    runs, steps = ([*range(n)][:: -1 if reverse else 1] for n in shape[1:3])
    state_BrGNp = entering_BGNp.unsqueeze(1)
    if is_small:
        local, through = added[:, :, steps[0]], decay[:, :, steps[0]].clone()
        for q in steps[1:]:
            local = torch.addcmul(added[:, :, q], decay[:, :, q], local)
            through.mul_(decay[:, :, q])
        state_BrGNp = torch.empty_like(local)
        state_BGNp = entering_BGNp
        for r in runs:
            state_BrGNp[:, r] = state_BGNp
            state_BGNp = torch.addcmul(local[:, r], through[:, r], state_BGNp)
    for q in steps:
        state_BrGNp = added[:, :, q].addcmul_(decay[:, :, q], state_BrGNp)
    return state_BrGNp[:, 0 if reverse else -1].clone()


def _shift(values_Bt: Tensor, before_B: Tensor, reverse: bool, out: Tensor) -> Tensor:
    """Write the value of the token before each one, `before_B` for the first; of the token after it if `reverse`."""
    if reverse:
        out[:, :-1], out[:, -1] = values_Bt[:, 1:], before_B
    else:
        out[:, 1:], out[:, 0] = values_Bt[:, :-1], before_B
    return out


def _scratch(inputs: SelectiveInputs, n_buffers: int, dtype: torch.dtype) -> Tensor:
    """Return buffers for the states of one tile's chunk: new memory for each would cost more than the work in it."""
    rows = next(iter(_row_tiles(inputs)), slice(0, 0))
    n_values = min(inputs.u_BTC.shape[1], CHUNK) * inputs.A_CN.numel()
    return torch.empty(n_buffers, (rows.stop - rows.start) * n_values, dtype=dtype)


def _row_tiles(inputs: SelectiveInputs) -> Iterator[slice]:
    n_batch, n_tokens, n_channels = inputs.u_BTC.shape
    n_rows = max(_TILE // (min(n_tokens, CHUNK) * n_channels * inputs.A_CN.shape[1]), 1)
    return (slice(row, min(row + n_rows, n_batch)) for row in range(0, n_batch, n_rows))


def _chunk_order(inputs: SelectiveInputs, reverse: bool) -> range:
    return range(inputs.n_chunks - 1, -1, -1) if reverse else range(inputs.n_chunks)


def _initial(inputs: SelectiveInputs, rows: slice, dtype: torch.dtype) -> Tensor:
    n_groups, d_state = inputs.B_BTGN.shape[2:]
    if inputs.initial_state_BCN is None:
        return torch.zeros(rows.stop - rows.start, n_groups, d_state, inputs.u_BTC.shape[2] // n_groups, dtype=dtype)
    return _by_group(inputs.initial_state_BCN[rows].to(dtype), n_groups)


def _heads(values_BtC: Tensor, A_GNp: Tensor) -> Tensor:
    """Return the channels as (..., G, p)."""
    return values_BtC.unflatten(-1, (A_GNp.shape[0], A_GNp.shape[2]))


def _by_group(values_CN: Tensor, n_groups: int) -> Tensor:
    """Return (..., C, N) as (..., G, N, p), contiguous."""
    return values_CN.unflatten(-2, (n_groups, values_CN.shape[-2] // n_groups)).transpose(-1, -2).contiguous()


def _by_channel(values_BGNp: Tensor) -> Tensor:
    """Return (B, G, N, p) as (B, C, N)."""
    return values_BGNp.transpose(-1, -2).flatten(1, 2)
