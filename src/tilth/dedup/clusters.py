"""Connected components over arrays, with the smallest member as root whatever the order of the edges."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]


class Clusters:
    """A partition of 0..n-1 that edges make coarser. `roots[i]` is always the smallest member of i's cluster."""

    def __init__(self, n: int) -> None:
        self.roots: Ints = np.arange(n, dtype=np.int64)

    def join(self, left: Ints, right: Ints) -> None:
        """Put left[k] and right[k] into one cluster, for every k. Time grows with the edges times a few rounds."""
        while True:
            a, b = self.roots[left], self.roots[right]
            apart = a != b
            if not apart.any():
                return
            left, right, a, b = left[apart], right[apart], a[apart], b[apart]
            # Each larger root hangs under one of its smaller neighbours, so no cycle can arise and only the smallest
            # member of a component can stay a root; which neighbour wins a round does not change where it ends.
            self.roots[np.maximum(a, b)] = np.minimum(a, b)
            self._flatten()

    def together(self, left: Ints, right: Ints) -> npt.NDArray[np.bool_]:
        """Whether left[k] and right[k] are in one cluster, for every k."""
        return self.roots[left] == self.roots[right]

    def _flatten(self) -> None:
        while True:
            above = self.roots[self.roots]
            if np.array_equal(above, self.roots):
                return
            self.roots = above
