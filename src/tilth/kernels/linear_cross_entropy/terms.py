"""What the loss of a token is made of, beside its target."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Terms:
    """The constants of the loss. With c = softcap * tanh(logit / softcap), or the logit where softcap is 0:

    loss = lse(c) - (1 - label_smoothing) * c[target] - label_smoothing * mean(c) + z_loss * lse(c)^2,
    and 0 where the target is `ignore_index`.
    """

    ignore_index: int
    z_loss: float
    softcap: float
    label_smoothing: float
