"""The rule to which every kernel's error is held: at most twice the error of torch in the same type, and two ulps.

The truth is the reference in float64 on the same inputs. What torch would do in the type is the reference computed in
it. The rule is that of the FlashAttention tests (Dao, 2023): a kernel that rounds like torch passes at every size, one
that drops a term at none.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

import torch
from torch import Tensor

from tilth.kernels.backend import computing_in, use_backend

Tensors = Mapping[str, Tensor | None]
_ALLOCATORS = ((torch, "empty"), (torch, "empty_like"), (Tensor, "new_empty"))


@dataclass(frozen=True)
class Deviation:
    """The largest error of one output or gradient, and the largest that is allowed."""

    name: str
    error: float
    allowed: float

    @property
    def is_allowed(self) -> bool:
        """False also where the error is NaN."""
        return self.error <= self.allowed


def deviations(
    function: Callable[..., Any],
    backend: str | None,
    tensors: Tensors,
    *,
    without_gradient: tuple[str, ...] = (),
    gradients: bool = True,
    factor: float = 2.0,
    **options: Any,
) -> list[Deviation]:
    """Return the deviation of every output and gradient of `function(**tensors, **options)` on `backend`.

    `without_gradient` names floating inputs through which no gradient flows.
    """
    kept = without_gradient if gradients else tuple(tensors)
    with use_backend(backend) if backend else contextlib.nullcontext():
        found = outputs_and_gradients(function, tensors, kept, **options)
    precise = {name: value.double() if is_float(value) else value for name, value in tensors.items()}
    with use_backend("reference"):
        truth = outputs_and_gradients(function, precise, kept, **options)
        dtype = next((value.dtype for value in tensors.values() if is_float(value)), torch.float32)
        with computing_in(dtype):
            plain = outputs_and_gradients(function, tensors, kept, **options)
    return [_deviation(name, found[name], truth[name], plain[name], factor) for name in truth]


def outputs_and_gradients(
    function: Callable[..., Any], tensors: Tensors, without_gradient: tuple[str, ...] = (), seed: int = 1, **options: Any
) -> dict[str, Tensor]:
    """Return `output 0`, ... and `d<name>` of every floating tensor, for fixed random gradients of the outputs."""
    leaves = {
        name: value.detach().clone().requires_grad_() if is_float(value) and name not in without_gradient else value
        for name, value in tensors.items()
    }
    outputs = function(**leaves, **options)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    found = {f"output {i}": output.detach() for i, output in enumerate(outputs) if output is not None}
    generator = torch.Generator().manual_seed(seed)
    pairs = [(o, torch.randn(o.shape, generator=generator, dtype=torch.float64).to(o)) for o in outputs if _has_gradient(o)]
    if pairs:
        torch.autograd.backward([output for output, _ in pairs], [gradient for _, gradient in pairs])
    return found | {f"d{name}": leaf.grad for name, leaf in leaves.items() if leaf is not None and leaf.grad is not None}


@contextlib.contextmanager
def poisoned_memory() -> Iterator[None]:
    """Fill what torch.empty and its kin return inside the block with NaN, so that reading it before writing shows."""
    makers = [(owner, name, getattr(owner, name)) for owner, name in _ALLOCATORS]
    for owner, name, make in makers:
        setattr(owner, name, lambda *a, _make=make, **k: _poison(_make(*a, **k)))
    try:
        yield
    finally:
        for owner, name, make in makers:
            setattr(owner, name, make)


def _poison(tensor: Tensor) -> Tensor:
    if tensor.is_floating_point():
        return tensor.fill_(float("nan"))
    return tensor.fill_(torch.iinfo(tensor.dtype).max) if tensor.dtype in (torch.int32, torch.int64) else tensor


def _deviation(name: str, found: Tensor, truth: Tensor, plain: Tensor, factor: float) -> Deviation:
    if found.shape != truth.shape:
        raise AssertionError(f"{name} has shape {tuple(found.shape)}, the reference {tuple(truth.shape)}")
    if truth.numel() == 0:
        return Deviation(name, 0.0, 0.0)
    if not found.is_floating_point():  # integers are right or wrong
        return Deviation(name, float((found != truth).sum()), 0.0)
    rounded = truth.to(found.dtype)
    ulp = ((rounded + 0.3 - 0.3).double() - rounded.double()).abs().max().item()
    allowed = factor * (plain.double() - truth).abs().max().item() + 2 * ulp
    return Deviation(name, (found.double() - truth).abs().max().item(), allowed)


def is_float(value: Tensor | None) -> TypeGuard[Tensor]:
    """Whether this input is a floating tensor, through which a gradient may flow."""
    return value is not None and value.is_floating_point()


def _has_gradient(output: Tensor | None) -> bool:
    return output is not None and output.requires_grad
