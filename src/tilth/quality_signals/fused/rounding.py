"""Python's `round(x, 8)` for whole arrays."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
N_DECIMALS = 8  # as published, so that equality with published values is plain equality
_SCALE = 1e8
_SPLITTER = 134217729.0  # 2**27 + 1: cuts a double into two halves whose products are exact (Dekker 1971)
_LARGEST = 2.0**25  # below it, x * 1e8 has a fraction; above, Python decides


def round_half_even(values: Floats) -> Floats:
    """`[round(x, 8) for x in values]` for finite values: to the nearest decimal, ties of the binary value to even."""
    large = np.flatnonzero(np.abs(values) >= _LARGEST)
    small = np.where(np.abs(values) < _LARGEST, values, 0.0) if len(large) else values
    product = small * _SCALE
    error = _product_error(small, product)
    nearest = np.rint(product)
    rest = product - nearest  # exact
    # Where the product looks half-way, rint went to the even neighbour: the product's own error tells on which side it lies.
    nearest += (rest == 0.5) & (error > 0)
    nearest -= (rest == -0.5) & (error < 0)
    rounded = np.copysign(nearest / _SCALE, small)
    for index in large:
        rounded[index] = round(float(values[index]), N_DECIMALS)
    return rounded


def _product_error(values: Floats, product: Floats) -> Floats:
    """values * 1e8 - product, exactly: 1e8 has 19 significant bits and each half of a double at most 27."""
    big = values * _SPLITTER
    high = big - (big - values)
    return (high * _SCALE - product) + (values - high) * _SCALE
