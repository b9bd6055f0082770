"""The options of every attention - window, scale, softcap - checked and brought to one form."""

from __future__ import annotations

import math
from collections.abc import Sequence

Window = int | Sequence[int | None] | None


def window_limits(window: Window, causal: bool) -> tuple[int, int]:
    """Return how many keys a query sees to the left and to the right of its own place, -1 for no limit.

    `window` is (left, right), each None or -1 for no limit; one number n is (n, 0) if `causal` and (n, n) if not.
    Raises ValueError for any other value.
    """
    if window is None or window == -1:
        return -1, 0 if causal else -1
    sides = (window, window) if isinstance(window, int) else tuple(window)
    if len(sides) != 2 or any(side is not None and (not isinstance(side, int) or side < -1) for side in sides):
        raise ValueError(f"window is {window!r}; expected (left, right), each None, -1 or a number of keys >= 0, or one number")
    left, right = (-1 if side is None else side for side in sides)
    return left, 0 if causal else right


def softmax_scale(scale: float | None, head_dim: int) -> float:
    """Return `scale`, or 1 / sqrt(head_dim) where it is None; raises ValueError unless it is positive and finite."""
    if scale is None:
        return 1.0 / math.sqrt(head_dim)
    if not 0 < scale < math.inf:
        raise ValueError(f"scale is {scale}; expected a number > 0")
    return float(scale)


def check_softcap(softcap: float) -> None:
    """Raise ValueError unless `softcap` is 0, for none, or a positive number."""
    if not 0 <= softcap < math.inf:
        raise ValueError(f"softcap is {softcap}; expected a number > 0, or 0 for none")
