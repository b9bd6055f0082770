"""Loss spikes: an update that would hurt is not made, as in the SkipStep optimisers of OLMo 2 (OLMo et al. 2024)."""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Mapping
from typing import Any

WINDOW = 128  # steps that a loss is compared with
MIN_HISTORY = WINDOW // 2  # before these a run is too young to know what is normal
MAX_NOT_FINITE = 10  # in a row: the weights themselves must be broken


class SpikeGuard:
    """Which updates are skipped: a function of the losses and gradient norms before, which `ledger` carries over a resume.

    A step is a spike when its loss or its gradient norm lies more than `threshold` standard deviations above the mean of
    the last WINDOW steps. Skipped steps join the window, so that a new level is accepted after a few of them; steps that
    are not finite do not. threshold 0: nothing is skipped.
    """

    def __init__(self, threshold: float, ledger: Mapping[str, Any] | None = None) -> None:
        ledger = ledger or {}
        self.threshold = threshold
        self.history: deque[tuple[float, float]] = deque(map(tuple, ledger.get("history", ())), WINDOW)
        self.n_not_finite: int = ledger.get("n_not_finite", 0)
        self.skipped_steps: list[int] = list(ledger.get("skipped_steps", ()))

    def skips(self, step: int, loss: float, grad_norm: float) -> bool:
        """Whether the update of `step` is left out; call once a step. Loss in nats per target, norm before clipping."""
        is_finite = math.isfinite(loss) and math.isfinite(grad_norm)
        is_skipped = self.threshold > 0 and (not is_finite or self._is_spike((loss, grad_norm)))
        self.n_not_finite = 0 if is_finite else self.n_not_finite + 1
        if is_finite and self.threshold > 0:
            self.history.append((loss, grad_norm))
        if is_skipped:
            self.skipped_steps.append(step)
        return is_skipped

    @property
    def gives_up(self) -> bool:
        """Whether a loss that is not finite is an error now."""
        return self.n_not_finite > (MAX_NOT_FINITE if self.threshold else 0)

    @property
    def ledger(self) -> dict[str, Any]:
        """What a checkpoint holds; through JSON and back it gives an equal guard."""
        return {"history": list(self.history), "n_not_finite": self.n_not_finite, "skipped_steps": self.skipped_steps}

    def _is_spike(self, found: tuple[float, float]) -> bool:
        if len(self.history) < MIN_HISTORY:
            return False
        for value, before in zip(found, zip(*self.history, strict=True), strict=True):
            if value - statistics.fmean(before) > self.threshold * statistics.stdev(before):
                return True
        return False
