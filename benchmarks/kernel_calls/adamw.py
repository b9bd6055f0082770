"""Calls of adamw_step."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from kernel_calls.call import Call
from tilth.kernels import adamw_step

NUMBERS: dict[str, Any] = {"lr": 1e-3, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1}
COLUMNS = ("parameter", "gradient", "exp_avg", "exp_avg_sq")


def stepped(**given: Any) -> tuple[Tensor, ...]:
    """Return parameters and moments after step 2, all in place; the tensors come as parameter_0, gradient_0, ..."""
    columns, options = _columns(given)
    adamw_step(*columns, step=2, **NUMBERS, **options)
    return (*columns[0], *columns[2], *columns[3])


def by_torch(**given: Any) -> None:
    """torch's own fused step."""
    columns, _ = _columns(given)
    parameters, gradients, exp_avgs, exp_avg_sqs = columns
    torch._fused_adamw_(
        parameters, gradients, exp_avgs, exp_avg_sqs, [], _steps(len(parameters), parameters[0].device),
        lr=NUMBERS["lr"], beta1=NUMBERS["betas"][0], beta2=NUMBERS["betas"][1], weight_decay=NUMBERS["weight_decay"],
        eps=NUMBERS["eps"], amsgrad=False, maximize=False,
    )  # fmt: skip


@functools.cache
def _steps(n_tensors: int, device: torch.device) -> list[Tensor]:
    return [torch.tensor(2.0, device=device)] * n_tensors


def gate_calls(dtype: torch.dtype) -> Iterator[Call]:
    """Moments of the parameter's type and of float32, by noise and to the nearest."""
    if dtype == torch.float16:
        return  # not a type of it
    sizes = (16384, 8)
    yield Call("plain", stepped, _tensors(sizes, "cpu", dtype), gradients=False)
    if dtype == torch.bfloat16:
        options = {"grad_scale": torch.ones(()), "stochastic_rounding": True}
        yield Call("noise", stepped, _tensors(sizes, "cpu", dtype), options, gradients=False)
        tensors = _tensors(sizes, "cpu", dtype, torch.float32)
        yield Call("noise, moments in float32", stepped, tensors, options, gradients=False)


def check_calls(dtype: torch.dtype, device: str) -> Iterator[Call]:
    """Chunks that end anywhere, tensors of one element, both kinds of moments, a scale; noise as the reference has it."""
    if dtype == torch.float16:
        return
    sizes = (1, 3, 16383, 16384, 16385, 100_003, 0)
    for moment_dtype in (dtype, torch.float32):
        tensors = _tensors(sizes, device, dtype, moment_dtype)
        for stochastic in (False, True):
            options = {"grad_scale": torch.tensor(0.3, device=device), "stochastic_rounding": stochastic, "seed": 3}
            yield Call(f"moments in {moment_dtype}, noise={stochastic}", stepped, tensors, options, gradients=False)


def bench_calls(device: str) -> Iterator[Call]:
    """A transformer of 0.8 G parameters in 24 layers, in float32 as torch's fused step takes it, and in bfloat16."""
    layer = (2048 * 6144, 2048 * 2048, 2048 * 5632, 2048 * 5632, 2048, 2048)
    sizes = layer * 24
    n = sum(sizes)
    tensors = _tensors(sizes, device, torch.float32)
    yield Call("float32", stepped, tensors, gradients=False, forward_bytes=28.0 * n, peers={"torch fused AdamW": by_torch})
    tensors = _tensors(sizes, device, torch.bfloat16)
    peers = {"torch fused AdamW, which rounds to the nearest": by_torch}
    options = {"stochastic_rounding": True}
    yield Call("bfloat16 by noise", stepped, tensors, options, gradients=False, forward_bytes=14.0 * n, peers=peers)


def _columns(given: dict[str, Any]) -> tuple[list[list[Tensor]], dict[str, Any]]:
    n_tensors = sum(name.startswith("parameter_") for name in given)
    columns = [[given.pop(f"{column}_{i}") for i in range(n_tensors)] for column in COLUMNS]
    return columns, given


def _tensors(
    sizes: tuple[int, ...], device: str, dtype: torch.dtype, moment_dtype: torch.dtype | None = None
) -> dict[str, Tensor | None]:
    moments = moment_dtype or dtype
    found: dict[str, Tensor | None] = {}
    for i, size in enumerate(sizes):
        for column, of in zip(COLUMNS, (dtype, dtype, moments, moments), strict=True):
            values = torch.randn(size, device=device).to(of)
            found[f"{column}_{i}"] = values.abs_() if column == "exp_avg_sq" else values
    return found
