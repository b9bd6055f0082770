"""The residual topology: which stream each sublayer reads, and when its output is summed over ranks and added."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor

    from tilth.models.tensor_ranks import Launched, TensorRanks

Sublayer = Callable[["Tensor"], "Tensor"]


class Residual(Protocol):
    """Owns the whole run over the sublayers, so that a topology may delay an output past the next sublayer.

    `shards` holds the sublayers of each shard that is computed in this process: (B, T, D) -> (B, T, D), which normalise
    their input and return their part of the sum over all shards.
    """

    def run(self, shards: Sequence[Sequence[Sublayer]], x_BTD: Tensor, ranks: TensorRanks) -> Tensor:
        """Pass x_BTD, the same on all ranks, through all sublayers; returns the final stream, the same on all ranks."""
        ...


class Standard:
    """Every sublayer reads the sum of the embedding and of all outputs before it."""

    def run(self, shards: Sequence[Sequence[Sublayer]], x_BTD: Tensor, ranks: TensorRanks) -> Tensor:
        """x_BTD + the outputs of all sublayers, each computed on the stream so far."""
        (sublayers,) = shards
        for sublayer in sublayers:
            x_BTD = x_BTD + ranks.sum(sublayer(x_BTD))
        return x_BTD


class Ladder:
    """Every sublayer from `first` on reads the stream without the output of the sublayer before it.

    So that output's sum over the ranks travels while this one is computed (Zhang et al. 2025, "Ladder-residual").
    """

    def __init__(self, first: int = 0) -> None:
        self.first = first

    def run(self, shards: Sequence[Sequence[Sublayer]], x_BTD: Tensor, ranks: TensorRanks) -> Tensor:
        """x_BTD + the outputs of all sublayers; only the sum of the last is waited for with nothing to compute."""
        (sublayers,) = shards
        x_BTD = Standard().run([sublayers[: self.first]], x_BTD, ranks)
        travelling: Launched | None = None
        for sublayer in sublayers[self.first :]:
            launched = ranks.launch(sublayer(x_BTD))
            x_BTD = x_BTD if travelling is None else x_BTD + travelling.land()
            travelling = launched
        return x_BTD if travelling is None else x_BTD + travelling.land()


class Desync:
    """Ranks keep streams of their own, which meet after every `every`-th sublayer and after the last.

    Where they meet, each brings its output and its share of the old streams' mean (Zhang et al. 2025, section "Desync").
    The function depends on the number of shards; they may all be computed in one process.
    """

    def __init__(self, every: int) -> None:
        self.every = every

    def run(self, shards: Sequence[Sequence[Sublayer]], x_BTD: Tensor, ranks: TensorRanks) -> Tensor:
        """The stream after the last meeting."""
        n_shards, n_sublayers = len(shards) * ranks.size, len(shards[0])
        streams = [x_BTD] * len(shards)
        for number in range(n_sublayers):
            outputs = [sublayers[number](stream) for sublayers, stream in zip(shards, streams, strict=True)]
            if (number + 1) % self.every and number + 1 < n_sublayers:
                streams = [stream + output for stream, output in zip(streams, outputs, strict=True)]
                continue
            parts = [output + stream / n_shards for stream, output in zip(streams, outputs, strict=True)]
            streams = [ranks.sum(sum(parts[1:], parts[0]))] * len(shards)
        return streams[0]


# What a topology is made of, given the number of the first sublayer that it holds for.
RESIDUALS: Mapping[str, Callable[[int], Residual]] = {
    "standard": lambda first: Standard(),
    "ladder": Ladder,
    "desync-2x": lambda first: Desync(every=2),
    "desync-4x": lambda first: Desync(every=4),
}
