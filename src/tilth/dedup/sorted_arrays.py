"""Sets of integers as ascending arrays. Plain sorting beats NumPy's hashing `unique` several times over on these."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import numpy.typing as npt

A = TypeVar("A", npt.NDArray[np.int64], npt.NDArray[np.uint64])


def distinct(values: A, *, in_runs: bool = False) -> A:
    """The distinct `values`, ascending; `in_runs` where they are some ascending arrays one after the other, which is quicker."""
    ordered = np.sort(values, kind="stable" if in_runs else None)
    if len(ordered) < 2:
        return ordered
    return ordered[np.concatenate(([True], ordered[1:] != ordered[:-1]))]


def contains(members: A, values: A) -> npt.NDArray[np.bool_]:
    """For each of `values` (any order) whether it is in `members` (ascending)."""
    if not len(members):
        return np.zeros(len(values), dtype=bool)
    places = np.minimum(np.searchsorted(members, values), len(members) - 1)
    return members[places] == values
