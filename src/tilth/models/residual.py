"""The residual topology: which stream each sublayer reads, and when its output is added; free of torch at run time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor

Sublayer = Callable[["Tensor"], "Tensor"]


class Residual(Protocol):
    """Owns the whole run over the sublayers, so that a topology may delay an output past the next sublayer."""

    def run(self, sublayers: Sequence[Sublayer], x_BTD: Tensor) -> Tensor:
        """Pass x_BTD through all sublayers (each normalises its own input); returns the final stream."""
        ...


class Standard:
    """Every sublayer reads the sum of the embedding and of all outputs before it."""

    def run(self, sublayers: Sequence[Sublayer], x_BTD: Tensor) -> Tensor:
        """x_BTD + the outputs of all sublayers, each computed on the stream so far."""
        for sublayer in sublayers:
            x_BTD = x_BTD + sublayer(x_BTD)
        return x_BTD


RESIDUALS: Mapping[str, Callable[[], Residual]] = {"standard": Standard, "ladder": Standard, "desync-2x": Standard, "desync-4x": Standard}
