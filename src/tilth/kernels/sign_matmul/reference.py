"""The product with unpacked signs, tenant by tenant, the truth that the other backends are tested against."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tilth.kernels.backend import compute_dtype
from tilth.kernels.sign_matmul.packing import unpack


def check_tenants(tenants_M: Tensor | None, n_tenants: int) -> None:
    """Raise ValueError for a tenant outside -1 <= tenant < E, where the tenants lie on the CPU."""
    if tenants_M is None or tenants_M.device.type != "cpu":
        return
    tenants = tenants_M.tolist()
    if min(tenants, default=-1) < -1 or max(tenants, default=-1) >= n_tenants:
        row = next(row for row, tenant in enumerate(tenants) if not -1 <= tenant < n_tenants)
        raise ValueError(f"tenants_M[{row}] is {tenants[row]}; expected -1 <= tenant < {n_tenants}")


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
    check_tenants(tenants_M, len(packed_EPN))
    dtype = compute_dtype(x_MK)
    x = x_MK.to(dtype)
    y = x.new_zeros(len(x), packed_EPN.shape[2])
    for e, packed_PN in enumerate(packed_EPN):
        product = (x if column_scale_EK is None else x * column_scale_EK[e].to(dtype)) @ unpack(packed_PN, x.shape[1], dtype)
        if row_scale_EN is not None:
            product = product * row_scale_EN[e].to(dtype)
        if scale_E is not None:
            product = product * scale_E[e].to(dtype)
        y = y + (product if tenants_M is None else torch.where((tenants_M == e).unsqueeze(1), product, 0))
    return (y if add_to_MN is None else y + add_to_MN.to(dtype)).to(x_MK.dtype)


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
    """Return the gradients of x and of the scales that are there, by differentiating the reference itself."""
    scales = (scale_E, row_scale_EN, column_scale_EK)
    present = [scale is not None for scale in scales]

    def run(x: Tensor, *given: Tensor) -> Tensor:
        rest = iter(given)
        all_scales: list[Any] = [next(rest) if there else None for there in present]
        scale, row_scale, column_scale = all_scales
        return forward(x, packed_EPN, tenants_M, scale, row_scale, column_scale, None)

    _, differentiate = torch.func.vjp(run, x_MK, *[scale for scale in scales if scale is not None])
    dx, *found = (gradient.contiguous() for gradient in differentiate(dy_MN))
    rest = iter(found)
    dscale, drow, dcolumn = (next(rest) if there else None for there in present)
    return (dx, dscale, drow, dcolumn) if with_scales else (dx, None, None, None)
