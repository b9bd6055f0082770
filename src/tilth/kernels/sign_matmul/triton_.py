"""Products with signs in Triton: the packed words are read once, and each of their bits meets its own columns of x.

A word holds 32 rows of K. x is laid out anew so that the columns of bits j and j + 16 of all words lie together, for each j
of 16. Then one shift and two bit operations make two signs of 16 bits at once, where the registers of the product want
them. The signs are the first factor (outputs are the rows of the product), so that a handful of rows of x is enough to
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

# Programs enough for a large GPU, twice; fixed, so that the order of summation never depends on the machine.
_PROGRAMS = 264
_MAX_SPLITS = 16
_HALF = 16  # bits of half a word


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
    tenants = None if tenants_M is None else tenants_M.clamp(0, len(packed_EPN) - 1).long()
    g = dy_MN
    for scale_EX in (None if scale_E is None else scale_E.unsqueeze(1), row_scale_EN):
        if (factor := _by_row(scale_EX, tenants)) is not None:
            g = g * factor
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
    options = launch("sign_matmul", "forward", x_MK, "M<=16" if n_rows <= 16 else "M>16")
    block_m, block_n, block_h = options["BLOCK_M"], options["BLOCK_N"], 2 * options["BLOCK_P"]
    n_blocks = triton.cdiv(2 * n_words, block_h)
    x_MJH = x_MK.new_empty(n_rows, _HALF, n_blocks * block_h)
    tenants = x_MJH if tenants_M is None else tenants_M.contiguous()
    _arrange_kernel[(n_rows, n_blocks)](
        x_MK, x_MJH if column_scale_EK is None else column_scale_EK.contiguous(), tenants, x_MJH,
        x_MK.stride(0), x_MK.stride(1), k, n_blocks * block_h, n_tenants,
        HAS_TENANTS=tenants_M is not None, HAS_SCALE=column_scale_EK is not None, BLOCK_H=block_h,
    )  # fmt: skip
    n_programs = triton.cdiv(n, block_n) * triton.cdiv(n_rows, block_m) * n_tenants
    blocks_each = triton.cdiv(n_blocks, min(max(_PROGRAMS // n_programs, 1), _MAX_SPLITS))
    n_splits = triton.cdiv(n_blocks, blocks_each)
    sums = y if n_splits == 1 else torch.empty((n_splits, n_rows, n), dtype=torch.float32, device=y.device)
    scales = [sums if scale is None else scale.contiguous() for scale in (scale_E, row_scale_EN, add_to_MN)]
    has = {"HAS_SCALE": scale_E is not None, "HAS_ROW": row_scale_EN is not None, "HAS_ADD": add_to_MN is not None}
    grid = (triton.cdiv(n, block_n) * triton.cdiv(n_rows, block_m), n_tenants, n_splits)
    _forward_kernel[grid](
        x_MJH, packed, tenants, *scales, sums, n_rows, n, n_words, n_blocks * block_h, blocks_each,
        HAS_TENANTS=tenants_M is not None, IS_SPLIT=n_splits > 1, PRECISION=precision(x_MK.dtype), **has, **options,
    )  # fmt: skip
    if n_splits > 1:
        _sum_kernel[(n_rows, triton.cdiv(n, 1024))](
            sums, tenants, *scales, y, n_rows, n, n_splits, n_tenants, HAS_TENANTS=tenants_M is not None, BLOCK=1024, **has
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
def _signs(words, j, BLOCK_N: tl.constexpr, BLOCK_P: tl.constexpr, dtype: tl.constexpr):
    """Return (BLOCK_N, 2 BLOCK_P) of +1 and -1 by bits j and j + 16 of the words (BLOCK_N, BLOCK_P), the two side by side."""
    if dtype == tl.float32:
        low = ((words << (31 - j)) & -0x80000000) ^ -0x40800000
        high = ((words << (15 - j)) & -0x80000000) ^ -0x40800000
        signs = tl.reshape(tl.join(low, high), [BLOCK_N, 2 * BLOCK_P]).to(tl.float32, bitcast=True)
    else:
        # Both bits at once: each is the sign of half a word, the rest of which is set to the pattern of 1.
        bits = (words << (15 - j)) & -0x7FFF8000
        if dtype == tl.bfloat16:
            bits = bits ^ -0x407F4080
        else:
            bits = bits ^ -0x43FF4400
        pair = tl.join(bits.to(tl.int16), (bits >> 16).to(tl.int16))
        signs = tl.reshape(pair, [BLOCK_N, 2 * BLOCK_P]).to(dtype, bitcast=True)
    return signs


@triton.jit
def _existing(tenant, n_tenants):
    """Return a tenant whose scales can be read: the row of one that does not exist is 0 or NaN whatever they are."""
    return tl.minimum(tl.maximum(tenant, 0), n_tenants - 1).to(tl.int64)


@triton.jit
def _arrange_kernel(
    x_ptr, column_ptr, tenants_ptr, arranged_ptr, stride_m, stride_k, k, n_padded, n_tenants,
    HAS_TENANTS: tl.constexpr, HAS_SCALE: tl.constexpr, BLOCK_H: tl.constexpr,
):  # fmt: skip
    """Write x[m, 16 h + j] * column_scale to [m, j, h], and 0 past K."""
    m = tl.program_id(0).to(tl.int64)
    h = tl.program_id(1) * BLOCK_H + tl.arange(0, BLOCK_H)
    j = tl.arange(0, 16)
    col = h[:, None] * 16 + j[None, :]
    inside = col < k
    x = tl.load(x_ptr + m * stride_m + col.to(tl.int64) * stride_k, mask=inside, other=0.0)
    if HAS_SCALE:
        if HAS_TENANTS:
            column_ptr += _existing(tl.load(tenants_ptr + m), n_tenants) * k
        x = (x.to(tl.float32) * tl.load(column_ptr + col, mask=inside, other=0.0).to(tl.float32)).to(x.dtype)
    tl.store(arranged_ptr + (m * 16 + j[:, None]) * n_padded + h[None, :], tl.trans(x))


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
    n_rows, n, n_words, n_padded, blocks_each,
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
        for block in range(split * blocks_each, tl.minimum((split + 1) * blocks_each, n_padded // (2 * BLOCK_P))):
            p = block * BLOCK_P + tl.arange(0, BLOCK_P)
            h = block * 2 * BLOCK_P + tl.arange(0, 2 * BLOCK_P)
            inside = (p < n_words)[None, :] & (cols < n)[:, None]
            words = tl.load(packed_ptr + p[None, :].to(tl.int64) * n + cols[:, None], mask=inside, other=0)
            x_base = x_ptr + rows.to(tl.int64)[None, :] * 16 * n_padded + h[:, None]
            # Unrolled: only then does the compiler bring the words, and not their signs, to where the product wants them.
            for j in tl.static_range(16):
                # Past K x holds zeros: no mask but that of the rows.
                x = tl.load(x_base + j * n_padded, mask=(rows < n_rows)[None, :], other=0.0)
                acc = tl.dot(_signs(words, j, BLOCK_N, BLOCK_P, dtype), x, acc, input_precision=PRECISION)
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
    sums_ptr, tenants_ptr, scale_ptr, row_ptr, add_ptr, y_ptr, n_rows, n, n_splits, n_tenants,
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
        tenant = _existing(tl.load(tenants_ptr + row), n_tenants)
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
        for start in range(0, n, BLOCK_N):
            cols = start + tl.arange(0, BLOCK_N)
            g_mask = (rows < n_rows)[:, None] & (cols < n)[None, :]
            g = tl.load(g_ptr + rows.to(tl.int64)[:, None] * n + cols[None, :], mask=g_mask, other=0.0)
            words = tl.load(word_ptr[:, None] + cols[None, :], mask=(col < k)[:, None] & (cols < n)[None, :], other=0)
            signs = tl.where(((words >> (col % 32)[:, None]) & 1) != 0, 1.0, -1.0).to(dtype)
            acc = tl.dot(g, tl.trans(signs), acc, input_precision=PRECISION)
        if HAS_TENANTS:
            nothing = tl.where(tenants == -1, 0.0, float("nan"))
            acc = tl.where(is_mine[:, None], acc, nothing[:, None])
        t_offsets = rows.to(tl.int64)[:, None] * k + col[None, :]
        tl.store(t_ptr + t_offsets, acc, mask=stored[:, None] & (col < k)[None, :])
