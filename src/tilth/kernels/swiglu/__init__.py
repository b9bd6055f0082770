"""`swiglu`: silu(gate) * up, the activation of gated MLPs, from one tensor of both or from two."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tilth.kernels.backend import check_device, check_float, check_shape, choose_backend, direct, implementation


def swiglu(gate_up_2F: Tensor, up_F: Tensor | None = None, *, backend: str | None = None) -> Tensor:
    """Return silu(gate) * up (..., F), where silu(x) = x / (1 + exp(-x)), in the dtype of the first input.

    Either `gate_up_2F` (..., 2F) holds the gate's channels first and then those of `up`, as one projection writes them,
    or it is the gate alone (..., F) and `up_F` has its shape and dtype. The gradient keeps nothing but the inputs.
    Source: Shazeer 2020, "GLU Variants Improve Transformer", equation 6.
    Raises ValueError for shapes or dtypes that do not fit, BackendError for a backend that cannot run.
    """
    check_float("gate_up_2F", gate_up_2F)
    if gate_up_2F.dim() == 0 or gate_up_2F.shape[-1] == 0:
        raise ValueError(f"gate_up_2F has shape {tuple(gate_up_2F.shape)}; expected a last dimension of at least 1")
    if up_F is None and gate_up_2F.shape[-1] % 2:
        raise ValueError(f"gate_up_2F has {gate_up_2F.shape[-1]} channels; expected an even number, the gate's and those of up")
    if up_F is not None:
        check_shape("up_F", up_F, tuple(gate_up_2F.shape), "the gate's shape")
        if up_F.dtype != gate_up_2F.dtype:
            raise ValueError(f"up_F is {up_F.dtype}, but the gate is {gate_up_2F.dtype}; they must be the same")
        check_device(gate_up_2F, up_F=up_F)
    return direct(_swiglu)(gate_up_2F, up_F, choose_backend(gate_up_2F, backend))


@torch.library.custom_op("tilth::swiglu", mutates_args=())
def _swiglu(gate_up_2F: Tensor, up_F: Tensor | None, backend: str) -> Tensor:
    return implementation("swiglu", backend).forward(gate_up_2F, up_F)


@torch.library.custom_op("tilth::swiglu_backward", mutates_args=())
def _swiglu_backward(dy_F: Tensor, gate_up_2F: Tensor, up_F: Tensor | None, backend: str) -> list[Tensor]:
    """Return one gradient for each input that there is."""
    return implementation("swiglu", backend).backward(dy_F, gate_up_2F, up_F)


@_swiglu.register_fake
def _(gate_up_2F: Tensor, up_F: Tensor | None, backend: str) -> Tensor:
    n_channels = gate_up_2F.shape[-1] // (2 if up_F is None else 1)
    return gate_up_2F.new_empty((*gate_up_2F.shape[:-1], n_channels))


@_swiglu_backward.register_fake
def _(dy_F: Tensor, gate_up_2F: Tensor, up_F: Tensor | None, backend: str) -> list[Tensor]:
    return [tensor.new_empty(tensor.shape) for tensor in (gate_up_2F, up_F) if tensor is not None]


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.backend = inputs
    ctx.save_for_backward(*tensors)


def _differentiate(ctx: Any, dy_F: Tensor) -> tuple[Tensor | None, ...]:
    dgate, *dup = _swiglu_backward(dy_F, *ctx.saved_tensors, ctx.backend)
    return dgate, dup[0] if dup else None, None


_swiglu.register_autograd(_differentiate, setup_context=_save)
