"""The check of targets against the vocabulary, for the backends that can look at them."""

from __future__ import annotations

from torch import Tensor


def check_range(targets_S: Tensor, n_classes: int, ignore_index: int) -> None:
    """Raise ValueError where a target is neither `ignore_index` nor in 0 <= target < n_classes.

    Only where the targets lie on the CPU: elsewhere this would wait for the device.
    """
    if targets_S.device.type != "cpu":
        return
    bad_S = ((targets_S < 0) | (targets_S >= n_classes)) & (targets_S != ignore_index)
    if bad_S.any():
        position = int(bad_S.nonzero()[0])
        raise ValueError(
            f"targets_S[{position}] is {int(targets_S[position])}; expected 0 <= target < {n_classes}, "
            f"or {ignore_index} for a token that does not count"
        )
