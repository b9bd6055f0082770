"""What the Triton kernels of ssd_scan share: which tokens a chunk has, their steps, and the decays between them."""

# Triton reads the annotations of a kernel: only tl.constexpr may stand there.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _row_of_tokens(row, cu_ptr, first_chunk_ptr, n_tokens, CHUNK: tl.constexpr, HAS_BOUNDS: tl.constexpr):
    """Return the first token of a row among those of all rows, its number of tokens, and its first chunk."""
    if HAS_BOUNDS:
        start = tl.load(cu_ptr + row).to(tl.int64)
        length = tl.load(cu_ptr + row + 1) - tl.load(cu_ptr + row)
        first_chunk = tl.load(first_chunk_ptr + row)
    else:
        start = row.to(tl.int64) * n_tokens
        length = n_tokens
        first_chunk = row * tl.cdiv(n_tokens, CHUNK)
    return start, length, first_chunk


@triton.jit
def _chunk_of_row(
    cu_ptr, first_chunk_ptr, row_of_chunk_ptr, k, n_rows, n_tokens, CHUNK: tl.constexpr, HAS_BOUNDS: tl.constexpr
):  # fmt: skip
    """Return the first token, the length and the number within its row of chunk k; one that is not there has length 0."""
    if HAS_BOUNDS:
        row = tl.load(row_of_chunk_ptr + k)
        is_there = row < n_rows
        row = tl.minimum(row, n_rows - 1)
    else:
        row = k // tl.cdiv(n_tokens, CHUNK)
        is_there = row < n_rows
    start, length, first_chunk = _row_of_tokens(row, cu_ptr, first_chunk_ptr, n_tokens, CHUNK, HAS_BOUNDS)
    return start, tl.where(is_there, length, 0), k - first_chunk


@triton.jit
def _tokens_of_chunk(start, length, c, CHUNK: tl.constexpr, REVERSE: tl.constexpr, DESCENDING: tl.constexpr):
    """Return a token of chunk c among those of all rows, where the others lie from there, and which of them there are.

    The distances are 32 bits wide: tensors of 64-bit offsets would take the registers that the states need. DESCENDING:
    the last of the scan first. A sum is most exact from what is far, and has decayed, to what is near, and gradients come
    from the other side than values.
    """
    q = tl.arange(0, CHUNK)
    if DESCENDING:
        q = CHUNK - 1 - q
    inside = c * CHUNK + q < length
    if REVERSE:
        base = start + (length - 1 - c * CHUNK)
        step = -q
    else:
        base = start + c * CHUNK
        step = q
    return base, step, inside


@triton.jit
def _settled(values):
    """Return the values as the result of a sum, in one layout.

    Without it the compiler loads so short a vector again for every layout in which it is used, and holds an address for
    each of its tokens: more registers than the state takes.
    """
    return tl.sum(tl.where(tl.arange(0, 2)[None, :] == 0, values[:, None], 0), axis=1)


@triton.jit
def _wide(values, EXACT: tl.constexpr):
    """Return the values in the type in which sums are taken: float64 for inputs of float32, else float32."""
    return values.to(tl.float64 if EXACT else tl.float32)


@triton.jit
def _step_sizes(
    dt_ptr, bias_ptr, base, step, inside, h, dt_min, dt_max,
    N_HEADS: tl.constexpr, HAS_BIAS: tl.constexpr, SOFTPLUS: tl.constexpr,
):  # fmt: skip
    """Return the steps of the tokens, 0 where there is none, and their derivatives by what was given."""
    raw = tl.load(dt_ptr + base * N_HEADS + h + step * N_HEADS, mask=inside, other=0.0).to(tl.float32)
    if HAS_BIAS:
        raw += tl.load(bias_ptr + h).to(tl.float32)
    dt = raw
    slope = tl.full(raw.shape, 1.0, tl.float32)
    if SOFTPLUS:
        # log(1 + e) is e where 1 + e is rounded to 1, and what the sum rounds is divided out elsewhere.
        e = tl.exp(-tl.abs(raw))
        u = 1.0 + e
        log1p = tl.where(u == 1.0, e, tl.log(u) * (e / tl.where(u == 1.0, 1.0, u - 1.0)))
        dt = tl.maximum(raw, 0.0) + log1p
        slope = tl.where(raw >= 0.0, 1.0, e) / u
    slope = tl.where((dt >= dt_min) & (dt <= dt_max), slope, 0.0)
    dt = tl.minimum(tl.maximum(dt, dt_min), dt_max)
    return _settled(tl.where(inside, dt, 0.0)), _settled(slope)


@triton.jit
def _decays_of_chunk(
    dt, A, documents_ptr, start, length, c, base, step, inside,
    CHUNK: tl.constexpr, HAS_SEGMENTS: tl.constexpr, REVERSE: tl.constexpr, DESCENDING: tl.constexpr,
    EXACT: tl.constexpr,
):  # fmt: skip
    """Return the running log-decay as a high and a low float32, the documents, and the decays into and out of the chunk.

    After one very large dt, differences of a float32 sum would be noise. EXACT: the sum is taken in float64. Else a token
    decays by e^-40 at most, which no 16-bit type tells from all: the sum stays above -2560 for 64 tokens, and what float32
    rounds there is below what 16 bits round (and the low part is 0, which the compiler drops).
    """
    if EXACT:
        log_decay = dt.to(tl.float64) * A.to(tl.float64)
        a = tl.cumsum(log_decay, axis=0, reverse=DESCENDING)
        total = tl.sum(log_decay, axis=0)
        high = a.to(tl.float32)
        low = (a - high.to(tl.float64)).to(tl.float32)
        out = total - a
    else:
        log_decay = tl.maximum(dt * A, -40.0)
        high = tl.cumsum(log_decay, axis=0, reverse=DESCENDING)
        a = high
        total = tl.sum(log_decay, axis=0)
        low = high
        out = total - high
    carry = tl.exp(total).to(tl.float32)
    reached = inside
    reaching = inside
    number = step
    if HAS_SEGMENTS:
        number = _settled(tl.load(documents_ptr + base + step, mask=inside, other=-1))
        before = tl.maximum(c * CHUNK - 1, 0)
        last = tl.minimum(c * CHUNK + CHUNK, length) - 1
        if REVERSE:
            before = length - 1 - before
            last = length - 1 - last
        entering = tl.load(documents_ptr + start + before)
        leaving = tl.load(documents_ptr + start + last)
        reached = reached & (number == entering)
        reaching = reaching & (number == leaving)
        carry = tl.where(entering == leaving, carry, 0.0)
    decay_in = tl.exp(tl.where(reached, a, float("-inf"))).to(tl.float32)
    decay_out = tl.exp(tl.where(reaching, out, float("-inf"))).to(tl.float32)
    return high, low, number, decay_in, decay_out, carry


@triton.jit
def _decay_between(
    high, low, number, CHUNK: tl.constexpr, HAS_SEGMENTS: tl.constexpr, DESCENDING: tl.constexpr, EXACT: tl.constexpr
):  # fmt: skip
    """Return exp(a_t - a_s) for s <= t in the same document, else 0; masked before exp, which would overflow above."""
    q = tl.arange(0, CHUNK)
    if DESCENDING:
        seen = q[:, None] <= q[None, :]
    else:
        seen = q[:, None] >= q[None, :]
    if HAS_SEGMENTS:
        seen = seen & (number[:, None] == number[None, :])
    log_decay = high[:, None] - high[None, :]
    if EXACT:
        log_decay += low[:, None] - low[None, :]
    return tl.exp(tl.where(seen, log_decay, float("-inf")))
