"""Several one-bit matrices: each codes what those before it left."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tilth.deploy.codecs.codec import MatrixCodec, Parts, Shape
from tilth.deploy.codecs.rank1 import Rank1
from tilth.inference.tenants.weights import Term

_ONE = Rank1()


@dataclass(frozen=True)
class Residual(MatrixCodec):
    """n_signs bits per weight. Parts: those of Rank1 with `.0`, `.1` ... behind."""

    n_signs: int = 2
    name = "residual"

    def encode_difference(self, difference_NK: Tensor) -> Parts:
        """Rank1's parts of the difference, then of what they miss, and so on."""
        parts: Parts = {}
        left_NK = difference_NK
        for number in range(self.n_signs):
            own = _ONE.encode_difference(left_NK)
            n_outputs, n_inputs = left_NK.shape
            left_NK = left_NK - _ONE.decode(own, (n_outputs, n_inputs))
            parts |= {f"{name}.{number}": part for name, part in own.items()}
        return parts

    def decode(self, parts: Parts, shape: tuple[int, int]) -> Tensor:
        """The sum of what each stands for, fp32 (N, K)."""
        return torch.stack([_ONE.decode(own, shape) for own in _levels(parts)]).sum(0)

    def terms(self, parts: Parts, shape: tuple[int, int]) -> list[Term]:
        """A product with signs for each."""
        return [term for own in _levels(parts) for term in _ONE.terms(own, shape)]

    def check(self, parts: Parts, shape: Shape, dtype: torch.dtype) -> str | None:
        """What is wrong with the parts; None = nothing."""
        levels = _levels(parts)
        if not levels or len(parts) != sum(len(own) for own in levels):
            return f"has the parts {sorted(parts)}, which are no levels of signs"
        problems = (_ONE.check(own, shape, dtype) for own in levels)
        return next((f"level {i}: {problem}" for i, problem in enumerate(problems) if problem), None)


def _levels(parts: Parts) -> list[Parts]:
    """The parts of each level from 0 on, up to the first that is not there."""
    levels: list[Parts] = []
    while own := {name.rpartition(".")[0]: part for name, part in parts.items() if name.endswith(f".{len(levels)}")}:
        levels.append(own)
    return levels
