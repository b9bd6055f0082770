"""Lookup in Triton, and a deterministic gradient: ids are sorted, and every row of the table sums its own tokens.

A frequent token would keep one program busy while the others are done. So the sorted tokens are cut into spans of equal
length, and a first kernel sums those spans that belong to one row as a whole; the second, one program a row, adds these
sums and the tokens at both ends. Neither needs atomics, nor the host to know how the ids are distributed.
"""

# Triton reads the annotations of a kernel: only tl.constexpr may stand there.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from tilth.kernels.launches import launch

_SPAN = 64
_NARROW = 256


def forward(ids: Tensor, weight_VD: Tensor, scale: float) -> Tensor:
    """Return scale * weight[ids] (..., D)."""
    weight, ids = weight_VD.contiguous(), ids.contiguous()
    n_rows, size = weight.shape
    y = torch.empty((*ids.shape, size), dtype=weight.dtype, device=weight.device)
    if y.numel():
        options = launch("embedding", "forward", weight, _width(size))
        grid = (triton.cdiv(ids.numel(), options["ROWS"]), triton.cdiv(size, options["COLS"]))
        _forward_kernel[grid](ids, weight, y, scale, ids.numel(), n_rows, size, **options)
    return y


def backward(dy_D: Tensor, ids: Tensor, n_rows: int, padding_index: int | None, scale: float) -> Tensor:
    """Return the gradient of the weight (V, D)."""
    size = dy_D.shape[-1]
    dy = dy_D.reshape(ids.numel(), size).contiguous()
    sorted_ids, order = ids.reshape(-1).sort(stable=True)
    bounds = torch.searchsorted(sorted_ids, torch.arange(n_rows + 1, dtype=sorted_ids.dtype, device=ids.device))
    dweight = torch.empty((n_rows, size), dtype=dy.dtype, device=dy.device)
    n_spans = ids.numel() // _SPAN
    sums = torch.empty((n_spans, size), dtype=torch.float32, device=dy.device)
    if n_spans:
        options = launch("embedding", "spans", dy, _width(size))
        grid = (n_spans, triton.cdiv(size, options["COLS"]))
        _spans_kernel[grid](dy, sorted_ids, order, sums, size, SPAN=_SPAN, **options)
    options = launch("embedding", "rows", dy, _width(size))
    grid = (n_rows, triton.cdiv(size, options["COLS"]))
    padding = -1 if padding_index is None else padding_index
    _rows_kernel[grid](dy, order, bounds, sums, dweight, scale, size, padding, SPAN=_SPAN, **options)
    return dweight


def _width(size: int) -> str:
    return "narrow" if size <= _NARROW else "wide"


@triton.jit
def _forward_kernel(
    ids_ptr, weight_ptr, y_ptr, scale, n_ids, n_rows, size, ROWS: tl.constexpr, COLS: tl.constexpr
):  # fmt: skip
    tokens = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    cols = (tl.program_id(1) * COLS + tl.arange(0, COLS))[None, :]
    ids = tl.load(ids_ptr + tokens, mask=tokens < n_ids, other=0).to(tl.int64)
    known = ((ids >= 0) & (ids < n_rows))[:, None]
    inside = (tokens < n_ids)[:, None] & (cols < size)
    row = tl.load(weight_ptr + ids[:, None] * size + cols, mask=inside & known, other=0.0).to(tl.float32)
    # NaN for an id without a row: a wrong number would be taken for a right one.
    y = tl.where(known, row * scale, float("nan"))
    tl.store(y_ptr + tokens[:, None] * size + cols, y.to(y_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _spans_kernel(dy_ptr, ids_ptr, order_ptr, sums_ptr, size, SPAN: tl.constexpr, COLS: tl.constexpr):
    span = tl.program_id(0).to(tl.int64)
    if tl.load(ids_ptr + span * SPAN) == tl.load(ids_ptr + span * SPAN + SPAN - 1):
        cols = tl.program_id(1) * COLS + tl.arange(0, COLS)
        total = _sum_tokens(tl.zeros([COLS], dtype=tl.float32), dy_ptr, order_ptr, span * SPAN, span * SPAN + SPAN, cols, size)
        tl.store(sums_ptr + span * size + cols, total, mask=cols < size)


@triton.jit
def _rows_kernel(
    dy_ptr, order_ptr, bounds_ptr, sums_ptr, dweight_ptr, scale, size, padding, SPAN: tl.constexpr, COLS: tl.constexpr
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    cols = tl.program_id(1) * COLS + tl.arange(0, COLS)
    first = tl.load(bounds_ptr + row)
    last = tl.load(bounds_ptr + row + 1)
    if row == padding:
        last = first
    # The whole spans inside [first, last); where there is none, all tokens count as the beginning.
    first_span = tl.cdiv(first, SPAN)
    last_span = tl.maximum(last // SPAN, first_span)
    total = tl.zeros([COLS], dtype=tl.float32)
    total = _sum_tokens(total, dy_ptr, order_ptr, first, tl.minimum(first_span * SPAN, last), cols, size)
    for span in range(first_span, last_span):
        total += tl.load(sums_ptr + span * size + cols, mask=cols < size, other=0.0)
    total = _sum_tokens(total, dy_ptr, order_ptr, tl.minimum(last_span * SPAN, last), last, cols, size)
    tl.store(dweight_ptr + row * size + cols, (total * scale).to(dweight_ptr.dtype.element_ty), mask=cols < size)


@triton.jit
def _sum_tokens(total, dy_ptr, order_ptr, first, last, cols, size):
    for place in range(first, last):
        token = tl.load(order_ptr + place)
        total += tl.load(dy_ptr + token * size + cols, mask=cols < size, other=0.0).to(tl.float32)
    return total
