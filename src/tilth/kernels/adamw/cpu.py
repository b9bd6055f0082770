"""AdamW on the CPU: torch's own fused step where its types allow, else few operations in place on one tensor at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from tilth.kernels.adamw.reference import store
from tilth.kernels.adamw.rule import Rule


def step(
    parameters: list[Tensor],
    gradients: list[Tensor],
    exp_avgs: list[Tensor],
    exp_avg_sqs: list[Tensor],
    grad_scale: Tensor | None,
    keys: list[int] | None,
    rule: Rule,
) -> None:
    """Change parameters and moments in place; `keys`: of each tensor's noise, None to round to the nearest."""
    fused: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    for i, tensors in enumerate(zip(parameters, gradients, exp_avgs, exp_avg_sqs, strict=True)):
        parameter, gradient, exp_avg, exp_avg_sq = tensors
        is_rounded_by_noise = keys is not None and torch.bfloat16 in (parameter.dtype, exp_avg.dtype)
        if is_rounded_by_noise or len({tensor.dtype for tensor in tensors}) > 1:
            _step_one(*tensors, grad_scale, None if keys is None else keys[i], rule)
        elif grad_scale is None:
            fused.append(tensors)
        else:  # torch's own scale would divide, and write the scaled gradient back
            _step_fused([(parameter, gradient * grad_scale.to(gradient.dtype), exp_avg, exp_avg_sq)], rule)
    _step_fused(fused, rule)


def _step_fused(tensors: list[tuple[Tensor, Tensor, Tensor, Tensor]], rule: Rule) -> None:
    for dtype in {parameter.dtype for parameter, *_ in tensors}:
        lists = zip(*(four for four in tensors if four[0].dtype == dtype), strict=True)
        parameters, gradients, exp_avgs, exp_avg_sqs = (list(column) for column in lists)
        steps = [torch.tensor(float(rule.step))] * len(parameters)
        torch._fused_adamw_(
            parameters, gradients, exp_avgs, exp_avg_sqs, [], steps,
            lr=rule.lr, beta1=rule.beta1, beta2=rule.beta2, weight_decay=rule.weight_decay, eps=rule.eps,
            amsgrad=False, maximize=False,
        )  # fmt: skip


def _step_one(
    parameter: Tensor,
    gradient: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    grad_scale: Tensor | None,
    key: int | None,
    rule: Rule,
) -> None:
    g = gradient.float()
    if grad_scale is not None:
        g = g * grad_scale.float()
    m = torch.lerp(exp_avg.float(), g, 1 - rule.beta1)
    v = (exp_avg_sq.float() * rule.beta2).addcmul_(g, g, value=1 - rule.beta2)
    size = v.sqrt().div_(rule.root_of_correction).add_(rule.eps)
    p = (parameter.float() * rule.kept).addcdiv_(m, size, value=-rule.step_size)
    store((parameter, exp_avg, exp_avg_sq), (p, m, v), key)
