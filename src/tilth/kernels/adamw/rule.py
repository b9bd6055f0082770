"""The numbers of one step, and what follows from them in double precision."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Rule:
    """AdamW's numbers at step `step`, counted from 1."""

    step: int
    lr: float
    beta1: float
    beta2: float
    eps: float
    weight_decay: float

    @property
    def kept(self) -> float:
        """The part of a parameter that weight decay leaves."""
        return 1 - self.lr * self.weight_decay

    @property
    def step_size(self) -> float:
        """The learning rate over the bias correction of the first moment."""
        return self.lr / (1 - self.beta1**self.step)

    @property
    def root_of_correction(self) -> float:
        """The root of the bias correction of the second moment."""
        return math.sqrt(1 - self.beta2**self.step)
