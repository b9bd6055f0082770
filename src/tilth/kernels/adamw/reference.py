"""AdamW as its equations, tensor by tensor, the truth that the other backends are tested against."""

from __future__ import annotations

import torch
from torch import Tensor

from tilth.kernels.adamw.rounding import mix, noise, round_by
from tilth.kernels.adamw.rule import Rule
from tilth.kernels.backend import compute_dtype


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
    for i, (parameter, gradient, exp_avg, exp_avg_sq) in enumerate(
        zip(parameters, gradients, exp_avgs, exp_avg_sqs, strict=True)
    ):
        dtype = compute_dtype(parameter)
        p, g, m, v = (t.to(dtype) for t in (parameter, gradient, exp_avg, exp_avg_sq))
        if grad_scale is not None:
            g = g * grad_scale.to(dtype)
        p = p * rule.kept
        m = m + (1 - rule.beta1) * (g - m)
        v = rule.beta2 * v + (1 - rule.beta2) * g * g
        p = p - rule.step_size * m / (torch.sqrt(v) / rule.root_of_correction + rule.eps)
        store((parameter, exp_avg, exp_avg_sq), (p, m, v), None if keys is None else keys[i])


def store(into: tuple[Tensor, Tensor, Tensor], values: tuple[Tensor, Tensor, Tensor], key: int | None) -> None:
    """Write parameter and moments; bfloat16 by noise from `key`: low and high half of an element's word, and of the next."""
    if key is None or torch.bfloat16 not in {tensor.dtype for tensor in into}:
        for tensor, value in zip(into, values, strict=True):
            tensor.copy_(value)
        return
    words = noise(key, into[0])
    for tensor, value, bits in zip(into, values, (words, words >> 16, mix(words)), strict=True):
        tensor.copy_(round_by(value.float(), bits) if tensor.dtype == torch.bfloat16 else value)
