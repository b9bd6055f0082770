"""From the kernels' whole numbers to Arrow columns."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tilth.quality_signals.fused.rounding import round_half_even

Mask = npt.NDArray[np.bool_]


def shares(part: npt.NDArray[Any], whole: npt.NDArray[Any], empty: float | None = None) -> pa.Array:
    """part / whole at eight decimals (float64); `empty`, or null, where the whole is 0."""
    none = whole == 0
    values = round_half_even(part / np.where(none, 1, whole))
    if empty is None:
        return pa.array(values, pa.float64(), mask=none)
    return pa.array(np.where(none, empty, values), pa.float64())


def decimals(values: npt.NDArray[np.float64], none: Mask) -> pa.Array:
    """The values at eight decimals (float64); null where `none`."""
    return pa.array(round_half_even(values), pa.float64(), mask=none)


def whole_numbers(values: npt.NDArray[Any], none: Mask | None = None) -> pa.Array:
    """The values as int64; null where `none`."""
    return pa.array(np.ascontiguousarray(values, np.int64), pa.int64(), mask=none)


def lists(firsts: npt.NDArray[np.int64], values: pa.Array, none: Mask) -> pa.Array:
    """A list for each document: values `firsts[i]:firsts[i + 1]`; null where `none`. A batch holds fewer than 2**31 lines."""
    return pa.ListArray.from_arrays(pa.array(firsts.astype(np.int32), mask=np.append(none, False)), values)
