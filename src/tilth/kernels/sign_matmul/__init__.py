"""`sign_matmul`: the product with a matrix of signs, one bit a weight; `sign_matmul_grouped`: with that of each row's tenant."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tilth.kernels.backend import check_device, check_float, check_shape, choose_backend, direct, implementation
from tilth.kernels.sign_matmul.packing import n_words, pack, unpack

__all__ = ["pack", "sign_matmul", "sign_matmul_grouped", "unpack"]


def sign_matmul(
    x_MK: Tensor,
    packed_PN: Tensor,
    *,
    scale: Tensor | float = 1.0,
    row_scale_N: Tensor | None = None,
    column_scale_K: Tensor | None = None,
    add_to_MN: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """Return scale * ((x * column_scale) @ signs) * row_scale + add_to as (M, N), in the dtype of x_MK.

    `packed_PN` are the signs (K, N) as `pack` lays them out, int32 (ceil(K / 32), N); bits past K are not read. `add_to_MN`
    is the product with the base model, of the dtype of x. The names row and column are those of the weight (N, K) as a
    linear layer has it. Gradients flow to x, the scales and add_to. Sums are in float32 (float64 for float64).
    Source: Liu et al. 2024, BitDelta (arXiv 2402.10193).
    Raises ValueError for inputs that do not fit, BackendError for a backend that cannot run.
    """
    if isinstance(scale, Tensor) and scale.numel() != 1:
        raise ValueError(f"scale has shape {tuple(scale.shape)}; expected one number")
    if packed_PN.dim() != 2:
        raise ValueError(f"packed_PN has shape {tuple(packed_PN.shape)}; expected 2 dimensions (P, N)")
    scale_E = (
        scale.reshape(1) if isinstance(scale, Tensor) else None if scale == 1 else torch.full((1,), scale, device=x_MK.device)
    )
    inputs = {
        "x_MK": x_MK,
        "packed_PN": packed_PN,
        "scale": scale_E,
        "row_scale_N": _one(row_scale_N, "row_scale_N"),
        "column_scale_K": _one(column_scale_K, "column_scale_K"),
        "add_to_MN": add_to_MN,
    }
    _check(inputs | {"packed_PN": packed_PN.unsqueeze(0)})
    tensors = [value for name, value in inputs.items() if name not in ("x_MK", "packed_PN")]
    return direct(_sign_matmul)(x_MK, packed_PN.unsqueeze(0), None, *tensors, choose_backend(x_MK, backend))


def sign_matmul_grouped(
    x_MK: Tensor,
    packed_EPN: Tensor,
    *,
    tenants_M: Tensor,
    scale_E: Tensor | None = None,
    row_scale_EN: Tensor | None = None,
    column_scale_EK: Tensor | None = None,
    add_to_MN: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """Return `sign_matmul` of each row with the signs and scales of its tenant: int32 tenants_M, -1 for no product at all.

    A row of tenant -1 is 0, or what add_to holds. Rows may come in any order, without padding and without a wait for the
    device; many more than 16 rows are fastest where those of a tenant lie together.
    Raises ValueError for inputs that do not fit, and on the CPU for a tenant outside -1 <= tenant < E; on a GPU, where a
    look would wait for the device, its row is NaN.
    """
    if packed_EPN.dim() != 3:
        raise ValueError(f"packed_EPN has shape {tuple(packed_EPN.shape)}; expected 3 dimensions (E, P, N)")
    _check(
        {
            "x_MK": x_MK,
            "packed_EPN": packed_EPN,
            "scale_E": scale_E,
            "row_scale_EN": row_scale_EN,
            "column_scale_EK": column_scale_EK,
            "add_to_MN": add_to_MN,
        }
    )
    check_shape("tenants_M", tenants_M, (x_MK.shape[0],), "M")
    if tenants_M.dtype != torch.int32:
        raise ValueError(f"tenants_M is {tenants_M.dtype}; expected int32")
    check_device(x_MK, tenants_M=tenants_M)
    name = choose_backend(x_MK, backend)
    return direct(_sign_matmul)(x_MK, packed_EPN, tenants_M, scale_E, row_scale_EN, column_scale_EK, add_to_MN, name)


def _one(scale: Tensor | None, name: str) -> Tensor | None:
    if scale is not None and scale.dim() != 1:
        raise ValueError(f"{name} has shape {tuple(scale.shape)}; expected 1 dimension")
    return None if scale is None else scale.unsqueeze(0)


def _check(inputs: dict[str, Tensor | None]) -> None:
    """Check x, packed (E, P, N), scale (E,), row scale (E, N), column scale (E, K) and add_to, whatever their names."""
    (_, x), (packed_name, packed), *scales, (add_name, add_to) = inputs.items()
    assert x is not None
    assert packed is not None
    check_float("x_MK", x)
    if x.dim() != 2 or x.shape[1] == 0:
        raise ValueError(f"x_MK has shape {tuple(x.shape)}; expected 2 dimensions (M, K), K at least 1")
    if packed.dtype != torch.int32:
        raise ValueError(f"{packed_name} is {packed.dtype}; expected int32, as `pack` returns it")
    (n_rows, k), (n_tenants, _, n) = x.shape, packed.shape
    if n_tenants == 0:
        raise ValueError(f"{packed_name} has no tenant; expected at least 1")
    if packed.shape[1] != n_words(k):
        raise ValueError(f"{packed_name} has {packed.shape[1]} rows of words; expected {n_words(k)} for x_MK with K={k}")
    for (name, scale), shape in zip(scales, ((n_tenants,), (n_tenants, n), (n_tenants, k)), strict=True):
        if scale is not None:
            check_float(name, scale)
            if scale.shape != shape:
                raise ValueError(f"{name} has shape {tuple(scale.shape)}; expected {shape}, the first number of tenants")
    if add_to is not None:
        check_shape(add_name, add_to, (n_rows, n), "M, N")
        if add_to.dtype != x.dtype:
            raise ValueError(f"{add_name} is {add_to.dtype}; expected {x.dtype} as x_MK")
    check_device(x, **{name: tensor for name, tensor in inputs.items() if name != "x_MK"})


@torch.library.custom_op("tilth::sign_matmul", mutates_args=())
def _sign_matmul(
    x_MK: Tensor,
    packed_EPN: Tensor,
    tenants_M: Tensor | None,
    scale_E: Tensor | None,
    row_scale_EN: Tensor | None,
    column_scale_EK: Tensor | None,
    add_to_MN: Tensor | None,
    backend: str,
) -> Tensor:
    module = implementation("sign_matmul", backend)
    return module.forward(x_MK, packed_EPN, tenants_M, scale_E, row_scale_EN, column_scale_EK, add_to_MN)


@torch.library.custom_op("tilth::sign_matmul_backward", mutates_args=())
def _sign_matmul_backward(
    dy_MN: Tensor,
    x_MK: Tensor,
    packed_EPN: Tensor,
    tenants_M: Tensor | None,
    scale_E: Tensor | None,
    row_scale_EN: Tensor | None,
    column_scale_EK: Tensor | None,
    with_scales: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, scale, row scale and column scale; empty for scales that are not there, or not asked for."""
    module = implementation("sign_matmul", backend)
    found = module.backward(dy_MN, x_MK, packed_EPN, tenants_M, scale_E, row_scale_EN, column_scale_EK, with_scales)
    return found[0], *[x_MK.new_empty(0) if gradient is None else gradient for gradient in found[1:]]


@_sign_matmul.register_fake
def _(
    x_MK: Tensor,
    packed_EPN: Tensor,
    tenants_M: Tensor | None,
    scale_E: Tensor | None,
    row_scale_EN: Tensor | None,
    column_scale_EK: Tensor | None,
    add_to_MN: Tensor | None,
    backend: str,
) -> Tensor:
    return x_MK.new_empty(x_MK.shape[0], packed_EPN.shape[2])


@_sign_matmul_backward.register_fake
def _(
    dy_MN: Tensor,
    x_MK: Tensor,
    packed_EPN: Tensor,
    tenants_M: Tensor | None,
    scale_E: Tensor | None,
    row_scale_EN: Tensor | None,
    column_scale_EK: Tensor | None,
    with_scales: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    scales = (scale_E, row_scale_EN, column_scale_EK)
    empty = [x_MK.new_empty(0) if t is None or not with_scales else t.new_empty(t.shape) for t in scales]
    return x_MK.new_empty(x_MK.shape), *empty


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, add_to, ctx.backend = inputs
    ctx.has_add_to = add_to is not None
    ctx.save_for_backward(*tensors)


def _differentiate(ctx: Any, dy_MN: Tensor) -> tuple[Tensor | None, ...]:
    needs = ctx.needs_input_grad
    tensors = ctx.saved_tensors
    gradients: tuple[Tensor | None, ...] = (None,) * 4
    if needs[0] or any(needs[3:6]):
        gradients = _sign_matmul_backward(dy_MN, *tensors, any(needs[3:6]), ctx.backend)
    dx, *dscales = [gradient if needed else None for gradient, needed in zip(gradients, (needs[0], *needs[3:6]), strict=True)]
    return dx, None, None, *dscales, dy_MN if ctx.has_add_to and needs[6] else None, None


_sign_matmul.register_autograd(_differentiate, setup_context=_save)
