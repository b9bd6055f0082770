"""The chunked form of the Mamba-2 recurrence on the CPU, with a hand-written backward.

Chunks are taken one after the other, the state carried between them, so that everything a chunk touches (about a
megabyte) stays in the cache; within a chunk all the work is matrix products. Documents with states of their own are
spans of tokens by themselves; those of `segments_BT`, often many and short, lie in a chunk together, under a mask.
Within a chunk of Q tokens, y = ((C B^T) * L) (dt x) + exp(a) C S, where L[t, s] = exp(a_t - a_s) for s <= t in the same
document and a is the running sum of dt A.
Letters: q token of a chunk, h head, g group, r head of a group, p channel, n state, b row of the batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import silu

from tilth.kernels.backend import compute_dtype
from tilth.kernels.documents import first_tokens
from tilth.kernels.ssd_scan.inputs import CPU_CHUNK, ScanInputs, ScanOptions, kept_states

# Small rows are taken together, up to this many numbers a chunk: the cost of calling torch is what counts there.
_NUMBERS_OF_A_CHUNK = 2**16


@dataclass(frozen=True)
class _Span:
    """Tokens that share one chain of states: whole rows, or one document. None: starts from zero, or is not handed on."""

    rows: slice
    start: int
    end: int
    first: slice | None
    last: slice | None

    def chunks(self, is_backwards: bool) -> list[tuple[int, slice]]:
        """Number and tokens of each chunk, in the order in which they are read."""
        parts = [slice(t, min(t + CPU_CHUNK, self.end)) for t in range(self.start, self.end, CPU_CHUNK)]
        return list(enumerate(parts))[:: -1 if is_backwards else 1]


def _spans(inputs: ScanInputs) -> Iterator[_Span]:
    n_batch, n_tokens, n_heads, head_dim = inputs.x_BTHP.shape
    if inputs.cu_seqlens is not None:
        bounds = inputs.cu_seqlens.tolist()
        for i in range(len(bounds) - 1):
            yield _Span(slice(0, 1), bounds[i], bounds[i + 1], slice(i, i + 1), slice(i, i + 1))
        return
    size = max(1, _NUMBERS_OF_A_CHUNK // (min(CPU_CHUNK, n_tokens) * n_heads * max(head_dim, CPU_CHUNK) or 1))
    size = size if inputs.B_BTGN.shape[2] == 1 else 1
    for b in range(0, n_batch, size):
        rows = slice(b, min(b + size, n_batch))
        yield _Span(rows, 0, n_tokens, rows, rows)


class _Scan:
    """The inputs with their steps and log-decays, and the matrices that sum along a chunk in the order of reading."""

    def __init__(self, inputs: ScanInputs, options: ScanOptions, is_backward: bool) -> None:
        self.inputs = inputs
        self.dtype = compute_dtype(inputs.x_BTHP)
        self.n_groups, self.d_state = inputs.B_BTGN.shape[2:]
        self.dt_BTH = options.step_sizes(inputs.dt_BTH, inputs.dt_bias_H, self.dtype)
        # float64: after one very large dt, differences of a float32 running sum would be noise.
        self.log_BTH = self.dt_BTH.double() * inputs.A_H.double()
        self.enters_BT = None if inputs.segments_BT is None else first_tokens(inputs.segments_BT, options.reverse).double()
        # A sum is most exact from its smallest terms to its largest: what is far, and has decayed, comes first. So the
        # tokens of a chunk lie in the order in which the chunks are read, and the gradient reads them the other way.
        self.is_descending = options.reverse != is_backward
        self.descending = torch.arange(CPU_CHUNK - 1, -1, -1)
        ones_qq = torch.ones(CPU_CHUNK, CPU_CHUNK, dtype=torch.float64)
        self.seen_qq = ones_qq.triu() if is_backward else ones_qq.tril()
        self.D_HP: Tensor | None = None
        if inputs.D_H is not None:
            self.D_HP = (inputs.D_H if inputs.D_H.dim() == 2 else inputs.D_H[:, None]).to(self.dtype)

    def first_state(self, span: _Span) -> Tensor:
        """A state of its own memory (b, H, P, N) with which the span is entered."""
        initial, n_rows = self.inputs.initial_state_BHPN, span.rows.stop - span.rows.start
        if initial is not None and span.first is not None:
            return initial[span.first].to(self.dtype, copy=True, memory_format=torch.contiguous_format)
        n_heads, head_dim = self.inputs.x_BTHP.shape[2:]
        return torch.zeros(n_rows, n_heads, head_dim, self.d_state, dtype=self.dtype)

    def cut(self, tensor_BT: Tensor, rows: slice, tokens: slice) -> Tensor:
        """Return some tokens in the order of the scan."""
        part = tensor_BT[rows, tokens]
        return part.index_select(1, self.descending[-part.shape[1] :]) if self.is_descending else part

    def put(self, target_BT: Tensor, rows: slice, tokens: slice, part: Tensor) -> None:
        """Undo cut: write the tokens where they belong."""
        target_BT[rows, tokens] = part.index_select(1, self.descending[-part.shape[1] :]) if self.is_descending else part

    def states_of_chunks(self, span: _Span) -> Tensor:
        """Walk the span for the states that enter its chunks (b, c, H, P, N)."""
        state = self.first_state(span)
        chunks = span.chunks(self.is_descending)
        states = torch.empty(state.shape[0], len(chunks), *state.shape[1:], dtype=self.dtype)
        for c, tokens in chunks:
            states[:, c] = state
            chunk = _Chunk(self, span.rows, tokens)
            chunk.add_to(state, chunk.stepped_x().mul_(chunk.decay_out_bqH1))
        return states


class _Chunk:
    """The inputs of one chunk of some rows in the dtype of the computation, without a copy where they have it, and its decays."""

    def __init__(self, scan: _Scan, rows: slice, tokens: slice) -> None:
        self.scan, self.rows, self.tokens = scan, rows, tokens
        self.x_bqHP = self.cut(scan.inputs.x_BTHP)
        self.dt_bqH1 = self.cut(scan.dt_BTH).unsqueeze(-1)
        self.B_bGqN, self.C_bGqN = (self.cut(t).transpose(1, 2) for t in (scan.inputs.B_BTGN, scan.inputs.C_BTGN))
        n_q = self.x_bqHP.shape[1]
        self.seen_qq = scan.seen_qq[:n_q, :n_q]
        log_bqH = scan.cut(scan.log_BTH, rows, tokens)
        self.a_bqH = torch.matmul(self.seen_qq, log_bqH)
        total_bH = log_bqH.sum(dim=1)
        self.decay_in_bqH1 = self._decay(self.a_bqH).unsqueeze(-1)
        self.decay_out_bqH1 = self._decay(total_bH.unsqueeze(1) - self.a_bqH).unsqueeze(-1)
        self.carry_bH11 = self._decay(total_bH)[..., None, None]
        self.seen = self.seen_qq
        if scan.enters_BT is not None:
            self._part_documents(scan.cut(scan.enters_BT, rows, tokens))

    def cut(self, tensor_BT: Tensor) -> Tensor:
        return self.scan.cut(tensor_BT, self.rows, self.tokens).to(self.scan.dtype)

    def put(self, target_BT: Tensor, part: Tensor) -> None:
        self.scan.put(target_BT, self.rows, self.tokens, part)

    def _part_documents(self, enters_bq: Tensor) -> None:
        """Let nothing pass between documents; `enters_bq` is 1 where one begins that is not the row's first."""
        number_bq = torch.matmul(self.seen_qq, enters_bq.unsqueeze(-1)).squeeze(-1)
        last_b1 = enters_bq.sum(dim=1, keepdim=True)
        self.seen = (self.seen_qq * (number_bq.unsqueeze(-1) == number_bq.unsqueeze(-2))).unsqueeze(1)
        self.decay_in_bqH1.mul_((number_bq == 0)[..., None, None])
        self.decay_out_bqH1.mul_((number_bq == last_b1)[..., None, None])
        self.carry_bH11.mul_((last_b1 == 0)[..., None, None])

    def _decay(self, log_decay: Tensor) -> Tensor:
        """Return exp(log_decay), bounded before exp.

        Of a pair that does not see each other the logarithm is positive and exp would overflow; far below zero exp gives
        subnormal numbers, with which the CPU is 30 times slower. exp(-70) = 4e-31 stands for all smaller decays.
        """
        lowest = -700.0 if self.scan.dtype == torch.float64 else -70.0
        return log_decay.to(self.scan.dtype, copy=True).clamp_(lowest, 0.0).exp_()

    def decay_between(self) -> Tensor:
        """Return exp(a_t - a_s) (b, G, r, q, q), and 1 for pairs that do not see each other."""
        a_bHq = self.a_bqH.transpose(1, 2).contiguous()
        decay_bHqq = self._decay(a_bHq.unsqueeze(-1) - a_bHq.unsqueeze(-2))
        return decay_bHqq.unflatten(1, (self.scan.n_groups, -1)) if decay_bHqq.shape[1] else decay_bHqq.unsqueeze(1)

    def scores(self) -> Tensor:
        """Return C B^T of the pairs that see each other, once for the heads that share a group (b, G, q, q)."""
        return (self.C_bGqN @ self.B_bGqN.transpose(-1, -2)).mul_(self.seen)

    def stepped_x(self) -> Tensor:
        return self.x_bqHP * self.dt_bqH1

    def by_group(self, x_bqHP: Tensor) -> Tensor:
        """Return x as (b, G, q, channels of all heads of a group): one wide product instead of one a head."""
        n_rows, n_q, n_heads, head_dim = x_bqHP.shape
        n_groups = self.scan.n_groups
        return x_bqHP.reshape(n_rows, n_q, n_groups, n_heads // n_groups * head_dim).transpose(1, 2)

    def by_head(self, x_bGqR: Tensor) -> Tensor:
        """Undo by_group."""
        return x_bGqR.transpose(1, 2).reshape(self.x_bqHP.shape)

    def grouped_state(self, state_bHPN: Tensor) -> Tensor:
        n_rows, n_heads, head_dim, d_state = state_bHPN.shape
        n_groups = self.scan.n_groups
        return state_bHPN.view(n_rows, n_groups, n_heads // n_groups * head_dim, d_state)

    def read(self, state_bHPN: Tensor) -> Tensor:
        """Return C S without its decay (b, q, H, P)."""
        return self.by_head(self.C_bGqN @ self.grouped_state(state_bHPN).transpose(-1, -2))

    def add_to(self, state_bHPN: Tensor, weighted_bqHP: Tensor, other_bGqN: Tensor | None = None) -> None:
        """state = carry state + weighted^T B (or `other`), in place."""
        state_bHPN.mul_(self.carry_bH11)
        other = self.B_bGqN if other_bGqN is None else other_bGqN
        state = self.grouped_state(state_bHPN).flatten(0, 1)
        state.baddbmm_(self.by_group(weighted_bqHP).transpose(-1, -2).flatten(0, 1), other.flatten(0, 1))


def forward(inputs: ScanInputs, options: ScanOptions) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return (y_BTHP, final_state_BHPN, the states that enter the chunks BcHPN, y before the gate), the last two if kept."""
    scan, x = _Scan(inputs, options, is_backward=False), inputs.x_BTHP
    y_BTHP = torch.empty(x.shape, dtype=x.dtype)
    final_BHPN = torch.empty(inputs.n_states, *x.shape[2:], scan.d_state, dtype=scan.dtype)
    kept_BcHPN = kept_states(inputs, options, "cpu")
    is_ungated_kept = inputs.z_BTHP is not None and options.is_kept
    ungated_BTHP = torch.empty(x.shape if is_ungated_kept else (0,), dtype=x.dtype)
    for span in _spans(inputs):
        state = scan.first_state(span)
        for c, tokens in span.chunks(options.reverse):
            if kept_BcHPN.dim() > 1:
                kept_BcHPN[span.rows, c] = state
            chunk = _Chunk(scan, span.rows, tokens)
            y_bqHP = _chunk_forward(chunk, state)
            if inputs.z_BTHP is not None:
                if is_ungated_kept:
                    chunk.put(ungated_BTHP, y_bqHP)
                y_bqHP.mul_(silu(chunk.cut(inputs.z_BTHP)))
            chunk.put(y_BTHP, y_bqHP)
        if span.last is not None:
            final_BHPN[span.last] = state
    return y_BTHP, final_BHPN, kept_BcHPN, ungated_BTHP


def _chunk_forward(chunk: _Chunk, state_bHPN: Tensor) -> Tensor:
    """Return y (b, q, H, P) without the gate; `state_bHPN` becomes the one that leaves the chunk."""
    weights_bGrqq = chunk.decay_between().mul_(chunk.scores().unsqueeze(2))
    stepped_bqHP = chunk.stepped_x()
    inside_bHqP = weights_bGrqq.flatten(1, 2) @ stepped_bqHP.transpose(1, 2)
    y_bqHP = torch.addcmul(inside_bHqP.transpose(1, 2), chunk.read(state_bHPN), chunk.decay_in_bqH1)
    if chunk.scan.D_HP is not None:
        y_bqHP.addcmul_(chunk.x_bqHP, chunk.scan.D_HP)
    chunk.add_to(state_bHPN, stepped_bqHP.mul_(chunk.decay_out_bqH1))
    return y_bqHP


class _Gradients:
    """The gradients that are written chunk by chunk."""

    def __init__(self, scan: _Scan) -> None:
        inputs = scan.inputs
        self.dx = torch.empty(inputs.x_BTHP.shape, dtype=inputs.x_BTHP.dtype)
        self.dB = torch.empty(inputs.B_BTGN.shape, dtype=inputs.B_BTGN.dtype)
        self.dC = torch.empty(inputs.C_BTGN.shape, dtype=inputs.C_BTGN.dtype)
        self.dz = None if inputs.z_BTHP is None else torch.empty(inputs.z_BTHP.shape, dtype=inputs.z_BTHP.dtype)
        self.ddt = torch.empty(scan.dt_BTH.shape, dtype=torch.float64)  # apart from what comes through dt A
        self.dlog = torch.empty(scan.dt_BTH.shape, dtype=torch.float64)  # of dt A
        self.dD = torch.zeros(inputs.x_BTHP.shape[2:], dtype=torch.float64)


def backward(
    dy_BTHP: Tensor, dfinal_BHPN: Tensor, inputs: ScanInputs, kept: Tensor, ungated: Tensor, options: ScanOptions
) -> tuple[Tensor | None, ...]:
    """Return the gradients of the differentiable inputs, None for those that were not given."""
    scan, forward_scan = _Scan(inputs, options, is_backward=True), _Scan(inputs, options, is_backward=False)
    found = _Gradients(scan)
    initial = inputs.initial_state_BHPN
    dinitial = None if initial is None else torch.empty(initial.shape, dtype=initial.dtype)
    for span in _spans(inputs):
        dstate = torch.zeros_like(scan.first_state(span)) if span.last is None else _own(dfinal_BHPN[span.last], scan.dtype)
        states = kept[span.rows] if kept.dim() > 1 else forward_scan.states_of_chunks(span)
        for c, tokens in span.chunks(not options.reverse):
            chunk = _Chunk(scan, span.rows, tokens)
            dy_bqHP = chunk.cut(dy_BTHP)
            if inputs.z_BTHP is not None and found.dz is not None:
                dy_bqHP, dz_bqHP = _through_gate(dy_bqHP, chunk.cut(inputs.z_BTHP), chunk.cut(ungated))
                chunk.put(found.dz, dz_bqHP)
            _chunk_backward(chunk, states[:, c], dy_bqHP, dstate, found)
        if dinitial is not None and span.first is not None:
            dinitial[span.first] = dstate
    ddt_BTH = found.ddt + found.dlog * inputs.A_H.double()
    dA_H = (found.dlog * scan.dt_BTH).sum(dim=(0, 1)).to(inputs.A_H.dtype)
    dD = None
    if inputs.D_H is not None:
        dD = (found.dD if inputs.D_H.dim() == 2 else found.dD.sum(dim=1)).to(inputs.D_H.dtype)
    ddt_BTH, dbias_H = _through_step_sizes(ddt_BTH, inputs, options)
    return found.dx, ddt_BTH, dA_H, found.dB, found.dC, dD, found.dz, dbias_H, dinitial


def _through_gate(dy: Tensor, z: Tensor, ungated: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients of y before the gate silu(z), and of z: silu' = s (1 + z (1 - s)) with s the sigmoid."""
    sigmoid = torch.sigmoid(z)
    dz = torch.mul(dy, ungated).mul_(sigmoid).mul_((1 - sigmoid).mul_(z).add_(1))
    return sigmoid.mul_(z).mul_(dy), dz


def _own(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.to(dtype, copy=True, memory_format=torch.contiguous_format)


def _through_step_sizes(ddt_BTH: Tensor, inputs: ScanInputs, options: ScanOptions) -> tuple[Tensor, Tensor | None]:
    """Return the gradients of dt as it was given, and of its bias, from that of the steps in float64."""
    dtype, bias = ddt_BTH.dtype, inputs.dt_bias_H
    shift = inputs.A_H.new_zeros(inputs.A_H.shape, dtype=dtype) if bias is None else bias.to(dtype)
    raw_BTH = inputs.dt_BTH.to(dtype) + shift
    _, differentiate = torch.func.vjp(lambda raw: options.step_sizes(raw, None, dtype), raw_BTH)
    (draw_BTH,) = differentiate(ddt_BTH)
    dbias = None if bias is None else draw_BTH.sum(dim=(0, 1)).to(bias.dtype)
    return draw_BTH.to(inputs.dt_BTH.dtype).contiguous(), dbias


def _chunk_backward(chunk: _Chunk, state_bHPN: Tensor, dy_bqHP: Tensor, dstate_bHPN: Tensor, found: _Gradients) -> None:
    """Write the gradients of one chunk; `dstate_bHPN`, of the state that leaves, becomes that of the one that enters."""
    x_bqHP, dt_bqH1, seen_qq = chunk.x_bqHP, chunk.dt_bqH1, chunk.seen_qq
    stepped_bqHP = chunk.stepped_x()
    scores_bGqq = chunk.scores()

    # Through the tokens of the same chunk.
    decay_bGrqq = chunk.decay_between()
    dy_bHqP = dy_bqHP.transpose(1, 2)
    dlog_bGrqq = (dy_bHqP @ stepped_bqHP.permute(0, 2, 3, 1)).unflatten(1, decay_bGrqq.shape[1:3]).mul_(decay_bGrqq)
    dscores_bGqq = dlog_bGrqq.sum(dim=2).mul_(chunk.seen)
    weights_bHqq = decay_bGrqq.mul_(scores_bGqq.unsqueeze(2)).flatten(1, 2)
    inside_bqHP = (weights_bHqq.transpose(-1, -2) @ dy_bHqP).transpose(1, 2)
    # What a token decays is the pairs that begin before it and end at it or later: a running sum of columns minus rows,
    # in float64, where the pairs that cancel do so without a trace for a large dt to enlarge.
    dlog_bHqq = dlog_bGrqq.mul_(scores_bGqq.unsqueeze(2)).flatten(1, 2).double()
    passing_bqH = (dlog_bHqq.sum(dim=-2) - dlog_bHqq.sum(dim=-1)).transpose(1, 2)

    # Through the state that enters.
    weighted_dy_bqHP = dy_bqHP * chunk.decay_in_bqH1
    reading_bqH = (chunk.read(state_bHPN).mul_(weighted_dy_bqHP)).sum(dim=-1).double()
    # Here too the largest terms, of the nearest tokens, come last.
    dC_bGqN = dscores_bGqq.flip(-1) @ chunk.B_bGqN.flip(-2)
    dC_bGqN += chunk.by_group(weighted_dy_bqHP) @ chunk.grouped_state(state_bHPN.contiguous())
    carried_bH = (state_bHPN * dstate_bHPN).sum(dim=(-1, -2)).mul_(chunk.carry_bH11[..., 0, 0])

    # Through the state that leaves.
    into_bqHP = chunk.by_head(chunk.B_bGqN @ chunk.grouped_state(dstate_bHPN).transpose(-1, -2)).mul_(chunk.decay_out_bqH1)
    through_bqH = (into_bqHP * stepped_bqHP).sum(dim=-1).double()
    dB_bGqN = dscores_bGqq.transpose(-1, -2) @ chunk.C_bGqN
    dB_bGqN += chunk.by_group(stepped_bqHP.mul_(chunk.decay_out_bqH1)) @ chunk.grouped_state(dstate_bHPN)
    chunk.add_to(dstate_bHPN, weighted_dy_bqHP, chunk.C_bGqN)

    # A token decays what was written before it and is read at it or later.
    before_qq = seen_qq - torch.eye(len(seen_qq), dtype=torch.float64)
    dlog_bqH = before_qq @ (passing_bqH + through_bqH) + seen_qq.T @ reading_bqH
    chunk.put(found.dlog, dlog_bqH.add_(carried_bH.unsqueeze(1)))
    dstepped_bqHP = into_bqHP.add_(inside_bqHP)
    chunk.put(found.ddt, (dstepped_bqHP * x_bqHP).sum(dim=-1))
    dx_bqHP = dstepped_bqHP.mul_(dt_bqH1)
    if chunk.scan.D_HP is not None:
        dx_bqHP.addcmul_(dy_bqHP, chunk.scan.D_HP)
        found.dD += (dy_bqHP * x_bqHP).sum(dim=(0, 1), dtype=torch.float64)
    chunk.put(found.dx, dx_bqHP)
    chunk.put(found.dB, dB_bGqN.transpose(1, 2))
    chunk.put(found.dC, dC_bGqN.transpose(1, 2))
