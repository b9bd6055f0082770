"""What a codec is: how a changed tensor becomes named parts and back."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from tilth.inference.tenants.weights import Term

Parts = dict[str, Tensor]
Shape = tuple[int, ...]
# a part: the types that it may have, and its shape
Wanted = tuple[Sequence[torch.dtype], Shape]
FLOAT32 = (torch.float32,)
# Scales relative to a matrix's own, near 1: fp16 is off by 1/2048 of them, and halves what they add to a matrix
SCALES = (torch.float16, torch.float32)


class Codec(ABC):
    """Encodes the change of one tensor. A codec's parts say how to decode them: settings only matter to encode."""

    name: ClassVar[str]
    version: ClassVar[int] = 1

    @abstractmethod
    def encode(self, base: Tensor, tuned: Tensor) -> Parts:
        """The parts that turn base into (nearly) tuned; both on the CPU, of one shape and type."""

    @abstractmethod
    def rebuild(self, parts: Parts, base: Tensor) -> Tensor:
        """The tensor that base and parts give, in the type of base; differentiable in the scales."""

    @abstractmethod
    def check(self, parts: Parts, shape: Shape, dtype: torch.dtype) -> str | None:
        """What is wrong with the parts of a tensor of that shape and type; None = nothing."""

    def scales(self, parts: Parts) -> list[str]:
        """The names of the parts that scale distillation trains."""
        return [name for name in parts if name.partition(".")[0] in ("scale", "row_scale", "column_scale")]


class MatrixCodec(Codec):
    """A codec of the difference of a matrix (N outputs, K inputs), which a server can multiply with as it lies."""

    @abstractmethod
    def encode_difference(self, difference_NK: Tensor) -> Parts:
        """The parts of an fp32 difference."""

    @abstractmethod
    def decode(self, parts: Parts, shape: tuple[int, int]) -> Tensor:
        """The difference, fp32 (N, K); differentiable in the scales."""

    @abstractmethod
    def terms(self, parts: Parts, shape: tuple[int, int]) -> list[Term]:
        """Products whose sum is what decode gives."""

    def encode(self, base: Tensor, tuned: Tensor) -> Parts:
        """The parts of tuned - base."""
        return self.encode_difference(tuned.float() - base.float())

    def rebuild(self, parts: Parts, base: Tensor) -> Tensor:
        """base + difference, added in fp32 and rounded once."""
        n_outputs, n_inputs = base.shape
        return (base.float() + self.decode(parts, (n_outputs, n_inputs))).to(base.dtype)


def check_parts(parts: Parts, wanted: Mapping[str, Wanted]) -> str | None:
    """What is wrong with parts, of which each must have a type and a shape, and finite values; None = nothing."""
    if parts.keys() != wanted.keys():
        return f"has the parts {sorted(parts)} instead of {sorted(wanted)}"
    for name, (dtypes, shape) in wanted.items():
        part = parts[name]
        if part.dtype not in dtypes or part.shape != shape:
            names = " or ".join(_plain(dtype) for dtype in dtypes)
            return f"has a {name} {_plain(part.dtype)} {tuple(part.shape)} instead of {names} {shape}"
        if not is_finite(part):
            return f"has a {name} that is not finite"
    return None


def check_product(*factors: Tensor, n_terms: int = 1) -> str | None:
    """What is wrong with parts whose product is a sum of n_terms: it, or some of its factors', could overflow; None = nothing.

    By the largest of each factor: a bound of all that is computed from them in whatever order.
    """
    sizes = [max(1.0, factor.abs().max().item()) for factor in factors if factor.numel()]
    return None if n_terms * math.prod(sizes) <= torch.finfo(torch.float32).max else "has scales whose product is not finite"


def check_matrix(shape: Shape) -> str | None:
    """What is wrong with the shape of a matrix; None = nothing."""
    return None if len(shape) == 2 and min(shape) > 0 else f"has the shape {shape}, which is no matrix's"


def is_finite(tensor: Tensor) -> bool:
    """True where no value is infinite or not a number."""
    return not tensor.is_floating_point() or bool(torch.isfinite(tensor).all())


def _plain(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
