"""Cross entropy in Triton: one kernel turns a row of logits into loss, log-sum-exp and gradient; the products are torch's.

A program owns a row: a first pass over the vocabulary keeps a running maximum and sum (Milakov and Gimelshein 2018,
arXiv 1805.02867), a second one, which finds the row in the cache, writes the gradient over the logits.
"""

# Triton reads the annotations of a kernel: only tl.constexpr may stand there.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from tilth.kernels.launches import launch
from tilth.kernels.linear_cross_entropy.chunks import by_chunks
from tilth.kernels.linear_cross_entropy.terms import Terms

_LOG2_E = tl.constexpr(1.4426950408889634)


def forward(
    hidden_SD: Tensor,
    weight_VD: Tensor,
    bias_V: Tensor | None,
    targets_S: Tensor,
    token_weights_S: Tensor | None,
    terms: Terms,
    dtype: torch.dtype,
    chunk_tokens: int,
    gradients: tuple[bool, bool],
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None, Tensor | None]:
    """Return loss_S, lse_S and the gradients of sum(token_weights * loss) that `gradients` (hidden, weight and bias) asks for.

    Ignored tokens go through the products with gradients of 0: to drop them, their number would have to be waited for.
    """

    def rows(logits: Tensor, targets: Tensor, weights: Tensor | None, with_gradient: bool) -> tuple[Tensor, Tensor]:
        return _rows(logits, targets, weights, None, terms, logits if with_gradient else None)

    return by_chunks(rows, hidden_SD, weight_VD, bias_V, targets_S, token_weights_S, dtype, chunk_tokens, gradients)


def row_losses(logits_SV: Tensor, targets_S: Tensor, terms: Terms) -> tuple[Tensor, Tensor]:
    """Return the loss of every token and the log of its sum of exponentials, both 0 where it is ignored: (S,), (S,)."""
    return _rows(_with_unit_stride(logits_SV), targets_S, None, None, terms, None)


def row_gradients(dloss_S: Tensor, logits_SV: Tensor, targets_S: Tensor, lse_S: Tensor, terms: Terms) -> Tensor:
    """Return the gradient of the logits (S, V)."""
    gradient_SV = torch.empty_like(logits_SV, memory_format=torch.contiguous_format)
    _rows(_with_unit_stride(logits_SV), targets_S, dloss_S, lse_S, terms, gradient_SV)
    return gradient_SV


def _rows(
    logits_SV: Tensor,
    targets_S: Tensor,
    weights_S: Tensor | None,
    lse_S: Tensor | None,
    terms: Terms,
    gradient_SV: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Return loss_S and lse_S, or what `lse_S` holds where it is known and only the gradient is asked for."""
    n_tokens, n_classes = logits_SV.shape
    is_lse_known = lse_S is not None
    loss_S = torch.empty(n_tokens, dtype=torch.float32, device=logits_SV.device)
    if lse_S is None:
        lse_S = torch.empty_like(loss_S)
    if n_tokens == 0:
        return loss_S, lse_S
    options = launch("linear_cross_entropy", "rows", logits_SV, "V<=2048" if n_classes <= 2048 else "V>2048")
    gradient = logits_SV if gradient_SV is None else gradient_SV
    _rows_kernel[(n_tokens,)](
        logits_SV, gradient, targets_S.contiguous(), loss_S if weights_S is None else weights_S.contiguous(), loss_S, lse_S,
        n_classes, logits_SV.stride(0), gradient.stride(0),
        terms.ignore_index, terms.z_loss, terms.softcap, terms.label_smoothing, terms.label_smoothing / n_classes,
        HAS_WEIGHTS=weights_S is not None, HAS_SOFTCAP=terms.softcap != 0, HAS_SMOOTHING=terms.label_smoothing != 0,
        WITH_GRADIENT=gradient_SV is not None, IS_LSE_KNOWN=is_lse_known, **options,
    )  # fmt: skip
    return loss_S, lse_S


def _with_unit_stride(logits_SV: Tensor) -> Tensor:
    return logits_SV if logits_SV.stride(1) == 1 else logits_SV.contiguous()


@triton.jit
def _capped(x, softcap, HAS_SOFTCAP: tl.constexpr):
    """Return softcap * tanh(x / softcap) by one exponential of a negative number, or x."""
    if HAS_SOFTCAP:
        e = tl.exp2(-2.0 * tl.abs(x) / softcap * _LOG2_E)
        size = softcap * (1.0 - e) / (1.0 + e)
        # Near 0 the difference would cancel: the first terms of the series are exact there to float32.
        a = x / softcap
        series = x * (1.0 - a * a * (1.0 / 3.0 - a * a * (2.0 / 15.0)))
        x = tl.where(tl.abs(a) < 0.05, series, tl.where(x < 0, -size, size))
    return x


@triton.jit(do_not_specialize=["ignore_index"])
def _rows_kernel(
    logits_ptr, gradient_ptr, targets_ptr, weights_ptr, loss_ptr, lse_ptr,
    n_classes, logits_stride, gradient_stride,
    ignore_index, z_loss, softcap, smoothing, smoothing_each,
    HAS_WEIGHTS: tl.constexpr, HAS_SOFTCAP: tl.constexpr, HAS_SMOOTHING: tl.constexpr,
    WITH_GRADIENT: tl.constexpr, IS_LSE_KNOWN: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    logits_ptr += row * logits_stride
    gradient_ptr += row * gradient_stride
    target = tl.load(targets_ptr + row).to(tl.int64)
    counts = target != ignore_index
    is_bad = counts & ((target < 0) | (target >= n_classes))
    cols = tl.arange(0, BLOCK)
    if IS_LSE_KNOWN:
        lse = tl.load(lse_ptr + row)
    else:
        maximum = float("-inf")
        sums = tl.zeros([BLOCK], dtype=tl.float32)
        totals = tl.zeros([BLOCK], dtype=tl.float32)
        for start in range(0, n_classes, BLOCK):
            inside = start + cols < n_classes
            x = tl.load(logits_ptr + start + cols, mask=inside, other=float("-inf")).to(tl.float32)
            x = tl.where(inside, _capped(x, softcap, HAS_SOFTCAP), float("-inf"))
            if HAS_SMOOTHING:
                totals += tl.where(inside, x, 0.0)
            new_maximum = tl.maximum(maximum, tl.max(x, axis=0))
            # Where all so far is -inf there is nothing to shrink, and -inf - -inf would be NaN.
            finite = tl.where(new_maximum == float("-inf"), 0.0, new_maximum)
            # The sum stays one number a column until the end: one reduction over the block a step, not two.
            sums = sums * tl.exp2((maximum - finite) * _LOG2_E) + tl.exp2((x - finite) * _LOG2_E)
            maximum = new_maximum
        lse = maximum + tl.log(tl.sum(sums, axis=0))
        at_target = tl.load(logits_ptr + target, mask=counts & (is_bad == 0), other=0.0).to(tl.float32)
        loss = lse - (1.0 - smoothing) * _capped(at_target, softcap, HAS_SOFTCAP) + z_loss * lse * lse
        if HAS_SMOOTHING:
            loss -= smoothing_each * tl.sum(totals, axis=0)
        # A target outside the vocabulary must not pass for a loss: NaN here and in the gradient.
        tl.store(loss_ptr + row, tl.where(is_bad, float("nan"), tl.where(counts, loss, 0.0)))
        tl.store(lse_ptr + row, tl.where(counts, lse, 0.0))
    if WITH_GRADIENT:
        weight = 1.0
        if HAS_WEIGHTS:
            weight = tl.load(weights_ptr + row).to(tl.float32)
        weight = tl.where(is_bad, float("nan"), weight)
        # All threads have read the target's logit before one of them writes over it.
        tl.debug_barrier()
        grow = 1.0 + 2.0 * z_loss * lse
        for start in range(0, n_classes, BLOCK):
            inside = start + cols < n_classes
            x = tl.load(logits_ptr + start + cols, mask=inside, other=0.0).to(tl.float32)
            x = _capped(x, softcap, HAS_SOFTCAP)
            gradient = tl.exp2((x - lse) * _LOG2_E) * grow - smoothing_each
            gradient = tl.where(start + cols == target, gradient - (1.0 - smoothing), gradient)
            if HAS_SOFTCAP:
                a = x / softcap
                gradient *= 1.0 - a * a
            gradient = tl.where(counts, gradient * weight, 0.0)
            tl.store(gradient_ptr + start + cols, gradient.to(gradient_ptr.dtype.element_ty), mask=inside)
