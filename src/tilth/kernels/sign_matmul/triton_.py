"""Products with signs in Triton: the packed words are read once, and each of their 32 bits is a product of its own.

A word holds 32 rows of K. x is laid out anew so that all its columns of one bit lie together: then bit j of a block of
words is a block of signs as it stands in the registers, made by a shift and two bit operations, and meets the columns of
bit j. The signs are the first factor (outputs are the rows of the product), so that a handful of rows of x is enough to
fill it. In a batch of tenants every program takes one tenant and one block of outputs, and stores the rows of its tenant:
no sorting, no padding, no wait, and every row is written once.
"""

# Triton reads the annotations of a kernel: only tl.constexpr may stand there.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from tilth.kernels.launches import launch, precision
from tilth.kernels.sign_matmul.packing import WORD_BITS

# Programs enough for a large GPU, twice; fixed, so that the order of summation never depends on the machine.
_PROGRAMS = 264
_MAX_SPLITS = 16


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
    y = x_MK.new_empty(x_MK.shape[0], packed_EPN.shape[2])
    _product(y, x_MK, packed_EPN, tenants_M, scale_E, row_scale_EN, column_scale_EK, add_to_MN)
    return y


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
    tenants = None if tenants_M is None else tenants_M.clamp(min=0).long()
    factor = _by_row(row_scale_EN, tenants) if scale_E is None else _by_row(scale_E.unsqueeze(1), tenants)
    if scale_E is not None and row_scale_EN is not None:
        factor = factor * _by_row(row_scale_EN, tenants)
    g = dy_MN.float() if factor is None else dy_MN * factor
    t = _transposed(g.to(x_MK.dtype), packed_EPN, tenants_M, x_MK.shape[1])
    column = _by_row(column_scale_EK, tenants)
    dx = (t if column is None else t * column).to(x_MK.dtype)
    if not with_scales:
        return dx, None, None, None
    dcolumn = None if column_scale_EK is None else _sum_by_tenant(x_MK * t, tenants_M, len(packed_EPN)).to(column_scale_EK.dtype)
    if scale_E is None and row_scale_EN is None:
        return dx, None, None, dcolumn
    products = torch.empty(dy_MN.shape, dtype=torch.float32, device=dy_MN.device)
    _product(products, x_MK, packed_EPN, tenants_M, None, None, column_scale_EK, None)
    dfactor_EN = _sum_by_tenant(dy_MN * products, tenants_M, len(packed_EPN))
    drow = dfactor_EN if scale_E is None else dfactor_EN * scale_E.unsqueeze(1)
    dscale = dfactor_EN if row_scale_EN is None else dfactor_EN * row_scale_EN
    return (
        dx,
        None if scale_E is None else dscale.sum(dim=1).to(scale_E.dtype),
        None if row_scale_EN is None else drow.to(row_scale_EN.dtype),
        dcolumn,
    )


def _by_row(scale_EX: Tensor | None, tenants: Tensor | None) -> Tensor | None:
    """Return the scale of each row's tenant in float32."""
    if scale_EX is None:
        return None
    return scale_EX.float() if tenants is None else scale_EX.float()[tenants]


def _sum_by_tenant(values_MX: Tensor, tenants_M: Tensor | None, n_tenants: int) -> Tensor:
    """Return the sums over each tenant's rows in float64 (E, X): a product, since a scatter would add in any order."""
    if tenants_M is None:
        return values_MX.sum(dim=0, keepdim=True, dtype=torch.float64)
    is_of_EM = tenants_M == torch.arange(n_tenants, device=tenants_M.device).unsqueeze(1)
    return is_of_EM.double() @ values_MX.double()


def _product(
    y: Tensor,
    x_MK: Tensor,
    packed_EPN: Tensor,
    tenants_M: Tensor | None,
    scale_E: Tensor | None,
    row_scale_EN: Tensor | None,
    column_scale_EK: Tensor | None,
    add_to_MN: Tensor | None,
) -> None:
    (n_rows, k), (n_tenants, n_words, n) = x_MK.shape, packed_EPN.shape
    if y.numel() == 0:
        return
    packed = packed_EPN.contiguous()
    options = launch("sign_matmul", "forward", x_MK, "M<=16" if n_rows <= 16 else "M<=64" if n_rows <= 64 else "M>64")
    block_m, block_n, block_p = (options[name] for name in ("BLOCK_M", "BLOCK_N", "BLOCK_P"))
    n_padded = triton.cdiv(n_words, block_p) * block_p
    x_MJP = x_MK.new_empty(n_rows, WORD_BITS, n_padded)
    tenants = x_MJP if tenants_M is None else tenants_M.contiguous()
    _arrange_kernel[(n_rows, n_padded // block_p)](
        x_MK, x_MJP if column_scale_EK is None else column_scale_EK.contiguous(), tenants, x_MJP,
        x_MK.stride(0), x_MK.stride(1), k, n_padded,
        HAS_TENANTS=tenants_M is not None, HAS_SCALE=column_scale_EK is not None, BLOCK_P=block_p,
    )  # fmt: skip
    n_programs = triton.cdiv(n, block_n) * triton.cdiv(n_rows, block_m) * n_tenants
    n_blocks = n_padded // block_p
    blocks_each = triton.cdiv(n_blocks, min(max(_PROGRAMS // n_programs, 1), _MAX_SPLITS))
    n_splits = triton.cdiv(n_blocks, blocks_each)
    sums = y if n_splits == 1 else torch.empty((n_splits, n_rows, n), dtype=torch.float32, device=y.device)
    scales = [sums if scale is None else scale.contiguous() for scale in (scale_E, row_scale_EN, add_to_MN)]
    has = {"HAS_SCALE": scale_E is not None, "HAS_ROW": row_scale_EN is not None, "HAS_ADD": add_to_MN is not None}
    grid = (triton.cdiv(n, block_n) * triton.cdiv(n_rows, block_m), n_tenants, n_splits)
    _forward_kernel[grid](
        x_MJP, packed, tenants, *scales, sums, n_rows, n, n_words, n_padded, blocks_each * block_p,
        HAS_TENANTS=tenants_M is not None, IS_SPLIT=n_splits > 1, PRECISION=precision(x_MK.dtype), **has, **options,
    )  # fmt: skip
    if n_splits > 1:
        _sum_kernel[(n_rows, triton.cdiv(n, 1024))](
            sums, tenants, *scales, y, n_rows, n, n_splits, HAS_TENANTS=tenants_M is not None, BLOCK=1024, **has
        )


def _transposed(g_MN: Tensor, packed_EPN: Tensor, tenants_M: Tensor | None, k: int) -> Tensor:
    """Return g @ signs.T as float32 (M, K), each row with the signs of its tenant."""
    n_rows, n = g_MN.shape
    t_MK = torch.empty((n_rows, k), dtype=torch.float32, device=g_MN.device)
    if t_MK.numel() == 0:
        return t_MK
    if n == 0:
        return t_MK.zero_()
    options = launch("sign_matmul", "transposed", g_MN, "any")
    grid = (triton.cdiv(n_rows, options["BLOCK_M"]) * triton.cdiv(k, options["BLOCK_K"]), len(packed_EPN))
    _transposed_kernel[grid](
        g_MN.contiguous(), packed_EPN.contiguous(), t_MK if tenants_M is None else tenants_M.contiguous(), t_MK,
        n_rows, n, k, packed_EPN.shape[1],
        HAS_TENANTS=tenants_M is not None, PRECISION=precision(g_MN.dtype), **options,
    )  # fmt: skip
    return t_MK


@triton.jit
def _sign(words, shift_left, dtype: tl.constexpr):
    """Return +1 or -1 in `dtype` by the bit that `shift_left` brings to the sign's place: bit 15 for 16-bit types, else 31."""
    if dtype == tl.bfloat16:
        sign = (((words << shift_left) & 0x8000) ^ 0xBF80).to(tl.int16).to(tl.bfloat16, bitcast=True)
    elif dtype == tl.float16:
        sign = (((words << shift_left) & 0x8000) ^ 0xBC00).to(tl.int16).to(tl.float16, bitcast=True)
    else:
        sign = (((words << shift_left) & -0x80000000) ^ -0x40800000).to(tl.float32, bitcast=True)
    return sign


@triton.jit
def _arrange_kernel(
    x_ptr, column_ptr, tenants_ptr, arranged_ptr, stride_m, stride_k, k, n_padded,
    HAS_TENANTS: tl.constexpr, HAS_SCALE: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """Write x[m, 32 p + j] * column_scale to [m, j, p], and 0 past K."""
    m = tl.program_id(0).to(tl.int64)
    p = tl.program_id(1) * BLOCK_P + tl.arange(0, BLOCK_P)
    j = tl.arange(0, 32)
    col = p[:, None] * 32 + j[None, :]
    inside = col < k
    x = tl.load(x_ptr + m * stride_m + col.to(tl.int64) * stride_k, mask=inside, other=0.0)
    if HAS_SCALE:
        tenant = 0
        if HAS_TENANTS:
            tenant = tl.maximum(tl.load(tenants_ptr + m), 0)
        scale = tl.load(column_ptr + tenant.to(tl.int64) * k + col if HAS_TENANTS else column_ptr + col, mask=inside, other=0.0)
        x = (x.to(tl.float32) * scale.to(tl.float32)).to(x.dtype)
    tl.store(arranged_ptr + (m * 32 + j[:, None]) * n_padded + p[None, :], tl.trans(x))


@triton.jit
def _finish(
    acc, rows, cols, tenant, scale_ptr, row_ptr, add_ptr, n, inside,
    HAS_SCALE: tl.constexpr, HAS_ROW: tl.constexpr, HAS_ADD: tl.constexpr,
):  # fmt: skip
    """Return acc * scale * row_scale + add_to; `tenant` is one number, `rows` and `cols` broadcast against each other."""
    if HAS_SCALE:
        acc *= tl.load(scale_ptr + tenant).to(tl.float32)
    if HAS_ROW:
        acc *= tl.load(row_ptr + tenant * n + cols, mask=cols < n, other=0.0).to(tl.float32)
    if HAS_ADD:
        acc += tl.load(add_ptr + rows.to(tl.int64) * n + cols, mask=inside, other=0.0).to(tl.float32)
    return acc


@triton.jit
def _forward_kernel(
    x_ptr, packed_ptr, tenants_ptr, scale_ptr, row_ptr, add_ptr, y_ptr,
    n_rows, n, n_words, n_padded, words_each,
    HAS_TENANTS: tl.constexpr, HAS_SCALE: tl.constexpr, HAS_ROW: tl.constexpr, HAS_ADD: tl.constexpr,
    IS_SPLIT: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    n_blocks_m = tl.cdiv(n_rows, BLOCK_M)
    rows = (tl.program_id(0) % n_blocks_m) * BLOCK_M + tl.arange(0, BLOCK_M)
    cols = (tl.program_id(0) // n_blocks_m) * BLOCK_N + tl.arange(0, BLOCK_N)
    e, split = tl.program_id(1).to(tl.int64), tl.program_id(2)
    stored = rows < n_rows
    if HAS_TENANTS:
        tenants = tl.load(tenants_ptr + rows, mask=stored, other=-1)
        is_mine = stored & (tenants == e)
        # The first tenant's programs also write the rows that are nobody's.
        is_nobodys = (tenants < 0) | (tenants >= tl.num_programs(1))
        stored = is_mine | (stored & is_nobodys & (e == 0))
        has_work = tl.max(stored.to(tl.int32), axis=0) > 0
    else:
        has_work = True
    if has_work:
        acc = tl.zeros([BLOCK_N, BLOCK_M], dtype=tl.float32)
        dtype: tl.constexpr = x_ptr.dtype.element_ty
        packed_ptr += e * n_words * n
        first = split * words_each
        for start in range(first, tl.minimum(first + words_each, n_padded), BLOCK_P):
            p = start + tl.arange(0, BLOCK_P)
            offsets = p[None, :].to(tl.int64) * n + cols[:, None]
            inside = (p < n_words)[None, :] & (cols < n)[:, None]
            words = tl.load(packed_ptr + offsets, mask=inside, other=0)
            x_base = x_ptr + rows.to(tl.int64)[None, :] * 32 * n_padded + p[:, None]
            for half in tl.static_range(2):
                for j in range(16):
                    # Past K and past the last word x holds zeros: no mask in the inner loop but that of the rows.
                    x = tl.load(x_base + (half * 16 + j) * n_padded, mask=(rows < n_rows)[None, :], other=0.0)
                    if dtype == tl.float32:
                        signs = _sign(words, 31 - half * 16 - j, dtype)
                    else:
                        signs = _sign(words >> half * 16, 15 - j, dtype)
                    acc = tl.dot(signs, x, acc, input_precision=PRECISION)
        inside = (cols < n)[:, None] & stored[None, :]
        if HAS_TENANTS:
            nothing = tl.where(tenants == -1, 0.0, float("nan"))
            acc = tl.where(is_mine[None, :], acc, nothing[None, :])
        y_offsets = rows.to(tl.int64)[None, :] * n + cols[:, None]
        if IS_SPLIT:
            y_ptr += split.to(tl.int64) * n_rows * n
        else:
            acc = _finish(
                acc, rows[None, :], cols[:, None], e, scale_ptr, row_ptr, add_ptr, n, inside, HAS_SCALE, HAS_ROW, HAS_ADD
            )
        tl.store(y_ptr + y_offsets, acc.to(y_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _sum_kernel(
    sums_ptr, tenants_ptr, scale_ptr, row_ptr, add_ptr, y_ptr, n_rows, n, n_splits,
    HAS_TENANTS: tl.constexpr, HAS_SCALE: tl.constexpr, HAS_ROW: tl.constexpr, HAS_ADD: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Add up the parts of K in their order."""
    row = tl.program_id(0).to(tl.int64)
    cols = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = cols < n
    acc = tl.zeros([BLOCK], dtype=tl.float32)
    for split in range(n_splits):
        acc += tl.load(sums_ptr + (split * n_rows + row) * n + cols, mask=inside, other=0.0)
    tenant = row * 0
    if HAS_TENANTS:
        tenant = tl.maximum(tl.load(tenants_ptr + row), 0).to(tl.int64)
    acc = _finish(acc, row, cols, tenant, scale_ptr, row_ptr, add_ptr, n, inside, HAS_SCALE, HAS_ROW, HAS_ADD)
    tl.store(y_ptr + row * n + cols, acc.to(y_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _transposed_kernel(
    g_ptr, packed_ptr, tenants_ptr, t_ptr, n_rows, n, k, n_words,
    HAS_TENANTS: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    n_blocks_m = tl.cdiv(n_rows, BLOCK_M)
    rows = (tl.program_id(0) % n_blocks_m) * BLOCK_M + tl.arange(0, BLOCK_M)
    col = (tl.program_id(0) // n_blocks_m) * BLOCK_K + tl.arange(0, BLOCK_K)
    e = tl.program_id(1).to(tl.int64)
    stored = rows < n_rows
    if HAS_TENANTS:
        tenants = tl.load(tenants_ptr + rows, mask=stored, other=-1)
        is_mine = stored & (tenants == e)
        is_nobodys = (tenants < 0) | (tenants >= tl.num_programs(1))
        stored = is_mine | (stored & is_nobodys & (e == 0))
        has_work = tl.max(stored.to(tl.int32), axis=0) > 0
    else:
        has_work = True
    if has_work:
        acc = tl.zeros([BLOCK_M, BLOCK_K], dtype=tl.float32)
        dtype: tl.constexpr = g_ptr.dtype.element_ty
        word_ptr = packed_ptr + (e * n_words + col // 32) * n
        shift = (31 if dtype == tl.float32 else 15) - col % 32
        for start in range(0, n, BLOCK_N):
            cols = start + tl.arange(0, BLOCK_N)
            g_mask = (rows < n_rows)[:, None] & (cols < n)[None, :]
            g = tl.load(g_ptr + rows.to(tl.int64)[:, None] * n + cols[None, :], mask=g_mask, other=0.0)
            words = tl.load(word_ptr[:, None] + cols[None, :], mask=(col < k)[:, None] & (cols < n)[None, :], other=0)
            if dtype != tl.float32:  # the upper half of the word comes down to where the lower one lies
                words = tl.where((shift < 0)[:, None], words >> 16, words)
            signs = _sign(words, (shift & 31 if dtype == tl.float32 else shift & 15)[:, None], dtype)
            acc = tl.dot(g, tl.trans(signs), acc, input_precision=PRECISION)
        if HAS_TENANTS:
            nothing = tl.where(tenants == -1, 0.0, float("nan"))
            acc = tl.where(is_mine[:, None], acc, nothing[:, None])
        t_offsets = rows.to(tl.int64)[:, None] * k + col[None, :]
        tl.store(t_ptr + t_offsets, acc, mask=stored[:, None] & (col < k)[None, :])
