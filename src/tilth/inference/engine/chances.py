"""Chances: what a branch draws with, made as it is needed."""

from __future__ import annotations

import torch

PIECE = 256


class Chances:
    """The numbers (fp32, in [0, 1)) of `torch.rand(n, generator)` with a generator of this seed, for any n, as `generate` draws.

    They are made PIECE at a time, the generator with the first: a request that waits, or is greedy, holds none. They are asked
    for in order; one may be asked for again until the next piece is begun.
    """

    def __init__(self, seed: int) -> None:
        self._seed, self._n_drawn = seed, 0
        self._generator: torch.Generator | None = None
        self._piece: list[float] = []

    def __getitem__(self, place: int) -> float:
        """The number at a place. Raises IndexError for one of an earlier piece."""
        if self._generator is None:
            self._generator = torch.Generator().manual_seed(self._seed)
        while place >= self._n_drawn:
            self._piece = torch.rand(PIECE, generator=self._generator).tolist()
            self._n_drawn += PIECE
        start = self._n_drawn - PIECE
        if place < start:
            raise IndexError(f"chance {place} is asked for after {start}")
        return self._piece[place - start]
