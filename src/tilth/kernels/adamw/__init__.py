"""`adamw_step`: one step of AdamW over lists of tensors, in place; `FusedAdamW`, the optimizer made of it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from tilth.kernels.adamw.rounding import key
from tilth.kernels.adamw.rule import Rule
from tilth.kernels.backend import choose_backend, implementation

_DTYPES = (torch.float32, torch.bfloat16, torch.float64)


def adamw_step(
    parameters: Sequence[Tensor],
    gradients: Sequence[Tensor],
    exp_avgs: Sequence[Tensor],
    exp_avg_sqs: Sequence[Tensor],
    *,
    step: int,
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 1e-2,
    grad_scale: Tensor | None = None,
    stochastic_rounding: bool = False,
    seed: int = 0,
    tensor_indices: Sequence[int] | None = None,
    backend: str | None = None,
) -> None:
    """Change parameters and moments in place by step number `step` (from 1) of AdamW, on a GPU in one launch a dtype.

    Source: Loshchilov and Hutter 2019, "Decoupled Weight Decay Regularization", algorithm 2. All arithmetic is in float32
    (float64 for float64 parameters). Parameters, gradients and moments may be float32 or bfloat16, each of its own.
    `grad_scale`, one number on the device of the parameters, multiplies every gradient as it is read: clipping without a
    pass and without a wait; the gradients keep their values.

    With `stochastic_rounding` what is stored in bfloat16 is rounded up or down with the chance that keeps its mean; without
    it, steps smaller than half a unit are lost. The noise is a function of `seed`, `step`, the index of the tensor (its
    place in the list, or `tensor_indices`) and the element, the same on every backend.

    The four lists have equal lengths, and the tensors of one place equal shapes and strides, without gaps in memory (a
    gradient may have other strides: it is copied then).
    Raises ValueError for inputs that do not fit, BackendError for a backend that cannot run.
    """
    indices = list(range(len(parameters))) if tensor_indices is None else list(tensor_indices)
    _check_lists(parameters, gradients, exp_avgs, exp_avg_sqs, indices)
    _check_numbers(step, lr, betas, eps, weight_decay)
    if not parameters:
        return
    if grad_scale is not None and (grad_scale.numel() != 1 or grad_scale.device != parameters[0].device):
        raise ValueError(
            f"grad_scale has shape {tuple(grad_scale.shape)} on {grad_scale.device}; "
            f"expected one number on {parameters[0].device}"
        )
    scale = None if grad_scale is None else grad_scale.reshape(())
    keys = [key(seed, step, index) for index in indices] if stochastic_rounding else []
    _adamw_step(
        list(parameters), list(gradients), list(exp_avgs), list(exp_avg_sqs), scale, keys,
        step, lr, *betas, eps, weight_decay, _backend(parameters[0], backend),
    )  # fmt: skip


def _backend(parameter: Tensor, backend: str | None) -> str:
    # The kernel takes bfloat16 as bare 16-bit words, which Triton's interpreter has right.
    return choose_backend(parameter.view(torch.int16) if parameter.dtype == torch.bfloat16 else parameter, backend)


def _check_lists(
    parameters: Sequence[Tensor],
    gradients: Sequence[Tensor],
    exp_avgs: Sequence[Tensor],
    exp_avg_sqs: Sequence[Tensor],
    indices: Sequence[int],
) -> None:
    lists = {"gradients": gradients, "exp_avgs": exp_avgs, "exp_avg_sqs": exp_avg_sqs, "tensor_indices": indices}
    for name, found in lists.items():
        if len(found) != len(parameters):
            raise ValueError(f"{name} has {len(found)} entries; expected {len(parameters)}, one for each of parameters")
    for i, parameter in enumerate(parameters):
        if not _is_dense(parameter):
            raise ValueError(f"parameters[{i}] has strides {parameter.stride()}: its elements leave gaps; make it contiguous")
        for name, tensor in (
            ("parameters", parameter),
            ("gradients", gradients[i]),
            ("exp_avgs", exp_avgs[i]),
            ("exp_avg_sqs", exp_avg_sqs[i]),
        ):
            where = f"{name}[{i}]"
            if tensor.dtype not in _DTYPES or (tensor.dtype == torch.float64) != (parameter.dtype == torch.float64):
                raise ValueError(
                    f"{where} is {tensor.dtype} for a parameter of {parameter.dtype}; "
                    "expected float32 or bfloat16, or float64 for all"
                )
            if tensor.layout != torch.strided or tensor.shape != parameter.shape:
                raise ValueError(f"{where} is {tensor.layout} of {tuple(tensor.shape)}; expected dense {tuple(parameter.shape)}")
            if tensor.device != parameters[0].device:
                raise ValueError(f"{where} is on {tensor.device}, but parameters[0] is on {parameters[0].device}")
            if name.startswith("exp") and tensor.stride() != parameter.stride():
                raise ValueError(f"{where} has strides {tensor.stride()}; expected {parameter.stride()} as the parameter")
        if exp_avgs[i].dtype != exp_avg_sqs[i].dtype:
            raise ValueError(f"exp_avg_sqs[{i}] is {exp_avg_sqs[i].dtype}, but exp_avgs[{i}] is {exp_avgs[i].dtype}")


def _is_dense(tensor: Tensor) -> bool:
    span = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.is_contiguous() or (span == tensor.numel() and 0 not in tensor.stride())


def _check_numbers(step: int, lr: float, betas: tuple[float, float], eps: float, weight_decay: float) -> None:
    if step < 1:
        raise ValueError(f"step is {step}; expected at least 1: it counts from 1")
    for name, value in (("lr", lr), ("eps", eps), ("weight_decay", weight_decay)):
        if not 0 <= value < math.inf:
            raise ValueError(f"{name} is {value}; expected a finite number of at least 0")
    if not all(0 <= beta < 1 for beta in betas):
        raise ValueError(f"betas is {betas}; expected 0 <= beta < 1 for both")


@torch.library.custom_op("tilth::adamw_step", mutates_args=("parameters", "exp_avgs", "exp_avg_sqs"))
def _adamw_step(
    parameters: Sequence[Tensor],
    gradients: Sequence[Tensor],
    exp_avgs: Sequence[Tensor],
    exp_avg_sqs: Sequence[Tensor],
    grad_scale: Tensor | None,
    keys: Sequence[int],
    step: int,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    backend: str,
) -> None:
    """`keys`: the key of each tensor's noise; none to round to the nearest."""
    rule = Rule(step, lr, beta1, beta2, eps, weight_decay)
    same_strides = [
        gradient if gradient.stride() == parameter.stride() else torch.empty_like(parameter, dtype=gradient.dtype).copy_(gradient)
        for parameter, gradient in zip(parameters, gradients, strict=True)
    ]
    module = implementation("adamw", backend)
    module.step(list(parameters), same_strides, list(exp_avgs), list(exp_avg_sqs), grad_scale, list(keys) or None, rule)


@_adamw_step.register_fake
def _(
    parameters: Sequence[Tensor],
    gradients: Sequence[Tensor],
    exp_avgs: Sequence[Tensor],
    exp_avg_sqs: Sequence[Tensor],
    grad_scale: Tensor | None,
    keys: Sequence[int],
    step: int,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    backend: str,
) -> None:
    return None
