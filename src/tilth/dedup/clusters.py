"""Connected components by union-find over an array that may lie on disk; the root is the smallest member."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import njit

Ints = npt.NDArray[np.int64]


class Clusters:
    """A partition of 0..n-1 that edges make coarser: the same for any order of the edges.

    `parents` (int64, n) may be a memory map; it is set up here.
    """

    def __init__(self, parents: Ints) -> None:
        self.parents = parents
        self.parents[:] = np.arange(len(parents), dtype=np.int64)

    def join(self, left: Ints, right: Ints) -> None:
        """Put left[k] and right[k] into one cluster, for every k. Time grows with the edges."""
        _join(self.parents, left, right)

    def roots(self) -> Ints:
        """The smallest member of each one's cluster: the parents, which all are roots from here until the next join."""
        _flatten(self.parents)
        return self.parents


@njit(cache=True, nogil=True, inline="always")
def _find(parents, member):  # type: ignore[no-untyped-def]
    while parents[member] != member:
        parents[member] = parents[parents[member]]  # halves the way for the next search
        member = parents[member]
    return member


@njit(cache=True, nogil=True)
def _join(parents, left, right):  # type: ignore[no-untyped-def]
    for edge in range(len(left)):
        a, b = _find(parents, left[edge]), _find(parents, right[edge])
        if a < b:
            parents[b] = a
        elif b < a:
            parents[a] = b


@njit(cache=True, nogil=True)
def _flatten(parents):  # type: ignore[no-untyped-def]
    # A parent is never larger than its member, so it is final already.
    for member in range(len(parents)):
        parents[member] = parents[parents[member]]
