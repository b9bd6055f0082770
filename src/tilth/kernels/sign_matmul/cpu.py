"""Products with signs on the CPU: forward by signed_sums, backward with signs that are unpacked, some outputs at a time.

A matrix that is unpacked a byte at a time, while it is in the cache, is also what many rows are multiplied with where
signed_sums has no tables.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import embedding

from tilth.kernels.backend import compute_dtype
from tilth.kernels.sign_matmul.reference import check_tenants

# Signs that are unpacked at a time: 1 MiB of float32, which a core's second cache holds.
_BLOCK_SIGNS = 262_144
# Outputs at a time at most: the gradient of x is a sum over outputs, which is more exact as a sum of sums.
_BLOCK_OUTPUTS = 128
# Rows of a tenant for which unpacking does not pay even where signed_sums has no tables.
_FEW_ROWS = 32


def forward(
    x_MK: Tensor,
    packed_EPN: Tensor,
    tenants_M: Tensor | None,
    scale_E: Tensor | None,
    row_scale_EN: Tensor | None,
    column_scale_EK: Tensor | None,
    add_to_MN: Tensor | None,
) -> Tensor:
    """Return y_MN."""
    # imported where it is used: a compiler takes longer to import than all kernels
    from tilth.kernels.sign_matmul import signed_sums

    check_tenants(tenants_M, len(packed_EPN))
    dtype = compute_dtype(x_MK)
    x = x_MK.to(dtype)
    if add_to_MN is None:
        y = x_MK.new_zeros(len(x), packed_EPN.shape[2], dtype=dtype)
    else:
        y = add_to_MN.to(dtype, copy=True, memory_format=torch.contiguous_format)
    tenants_M = torch.zeros(len(x), dtype=torch.int32) if tenants_M is None else tenants_M
    many = {} if len(x) <= _FEW_ROWS or signed_sums.has_tables(dtype) else _rows_of_many(tenants_M)
    for e, rows in many.items():
        y[rows] += _product(_scaled_x(x[rows], column_scale_EK, e), packed_EPN[e], _factor(scale_E, row_scale_EN, e, dtype))
        tenants_M = tenants_M.index_fill(0, rows, -1)
    signed_sums.add_products(y, x, packed_EPN, tenants_M, scale_E, row_scale_EN, column_scale_EK)
    return y.to(x_MK.dtype)


def _rows_of_many(tenants_M: Tensor) -> dict[int, Tensor]:
    """Return each tenant that has more than a few rows, and these."""
    is_many_E = torch.bincount(tenants_M + 1)[1:] > _FEW_ROWS
    return {e: (tenants_M == e).nonzero().squeeze(1) for e in is_many_E.nonzero().flatten().tolist()}


def _product(x_MK: Tensor, packed_PN: Tensor, factor: Tensor | None) -> Tensor:
    product = x_MK.new_empty(len(x_MK), packed_PN.shape[1])
    for part, signs_NK in _blocks(packed_PN, x_MK.shape[1], x_MK.dtype):
        product[:, part] = x_MK @ signs_NK.T
    return product if factor is None else product.mul_(factor)


def backward(
    dy_MN: Tensor,
    x_MK: Tensor,
    packed_EPN: Tensor,
    tenants_M: Tensor | None,
    scale_E: Tensor | None,
    row_scale_EN: Tensor | None,
    column_scale_EK: Tensor | None,
    with_scales: bool,
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
    """Return the gradients of x and of the scales that are there."""
    dtype = compute_dtype(x_MK)
    dx = torch.zeros_like(x_MK, memory_format=torch.contiguous_format)
    gradients = [None if t is None or not with_scales else torch.zeros_like(t) for t in (scale_E, row_scale_EN, column_scale_EK)]
    dscale, drow, dcolumn = gradients
    for e, rows in _rows(tenants_M, len(packed_EPN)):
        dy, x = dy_MN[rows].to(dtype), x_MK[rows].to(dtype)
        scaled_x, factor = _scaled_x(x, column_scale_EK, e), _factor(scale_E, row_scale_EN, e, dtype)
        g = dy if factor is None else dy * factor
        t, dfactor_N = torch.zeros_like(x), dy.new_empty(dy.shape[1], dtype=torch.float64)
        for part, signs_NK in _blocks(packed_EPN[e], x.shape[1], dtype):
            t += g[:, part] @ signs_NK  # not addmm_, which may go on adding one term after the other
            if dscale is not None or drow is not None:
                dfactor_N[part] = (scaled_x @ signs_NK.T).mul_(dy[:, part]).sum(dim=0, dtype=torch.float64)
        dx[rows] = _scaled_x(t, column_scale_EK, e).to(dx.dtype)
        if dcolumn is not None:
            dcolumn[e] = t.mul_(x).sum(dim=0)
        if drow is not None:
            drow[e] = dfactor_N if scale_E is None else dfactor_N * scale_E[e]
        if dscale is not None:
            dscale[e] = (dfactor_N if row_scale_EN is None else dfactor_N * row_scale_EN[e]).sum()
    return dx, dscale, drow, dcolumn


def _rows(tenants_M: Tensor | None, n_tenants: int) -> Iterator[tuple[int, Tensor | slice]]:
    """Yield every tenant that has rows, and them."""
    if tenants_M is None:
        yield 0, slice(None)
        return
    for e in range(n_tenants):
        if len(rows := (tenants_M == e).nonzero().squeeze(1)):
            yield e, rows


def _scaled_x(x: Tensor, column_scale_EK: Tensor | None, e: int) -> Tensor:
    return x if column_scale_EK is None else x * column_scale_EK[e].to(x.dtype)


def _factor(scale_E: Tensor | None, row_scale_EN: Tensor | None, e: int, dtype: torch.dtype) -> Tensor | None:
    """Return what each output of tenant e is multiplied by, (N,) or one number; None for 1."""
    factors = [scale[e].to(dtype) for scale in (scale_E, row_scale_EN) if scale is not None]
    return functools.reduce(torch.mul, factors) if factors else None


def _blocks(packed_PN: Tensor, k: int, dtype: torch.dtype) -> Iterator[tuple[slice, Tensor]]:
    """Yield the signs of some outputs at a time: which, and (n, K) of +1 and -1."""
    # Least significant byte first, as on every machine that torch runs on.
    bytes_NB = packed_PN.T.clone(memory_format=torch.contiguous_format).view(torch.uint8)
    table = _signs_of_bytes(dtype)
    size = min(max(1, _BLOCK_SIGNS // k), _BLOCK_OUTPUTS)
    for start in range(0, len(bytes_NB), size):
        part = slice(start, min(start + size, len(bytes_NB)))
        yield part, embedding(bytes_NB[part].int(), table).flatten(1)[:, :k]


@functools.cache
def _signs_of_bytes(dtype: torch.dtype) -> Tensor:
    """Return (256, 8): the signs that each byte stands for."""
    return ((torch.arange(256).unsqueeze(1) >> torch.arange(8) & 1) * 2 - 1).to(dtype)
