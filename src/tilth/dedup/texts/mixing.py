"""Bits of 64-bit words spread, and random words from that: splitmix64 (Steele, Lea and Flood 2014)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

Hashes = npt.NDArray[np.uint64]
# Odd constants; splitmix64's, though any odd ones would do.
MULTIPLIER, MIXER, STEP = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB), np.uint64(0x9E3779B97F4A7C15)
_30, _27, _31 = np.uint64(30), np.uint64(27), np.uint64(31)


@njit(cache=True, nogil=True, inline="always")
def mix(state: Any) -> Any:
    """Spread the bits of a 64-bit value; a bijection."""
    state = (state ^ (state >> _30)) * MULTIPLIER
    state = (state ^ (state >> _27)) * MIXER
    return state ^ (state >> _31)


def mixed(state: Hashes) -> Hashes:
    """`mix` of each of an array."""
    state = (state ^ (state >> _30)) * MULTIPLIER
    state = (state ^ (state >> _27)) * MIXER
    return state ^ (state >> _31)


def random_words(seed: int, count: int) -> Hashes:
    """`count` words of the sequence: the same on every machine and for every version of NumPy."""
    steps = np.arange(1, count + 1, dtype=np.uint64) * STEP
    return mixed(steps + np.uint64(seed & 0xFFFFFFFFFFFFFFFF))
