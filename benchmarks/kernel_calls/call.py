"""One call of an operator: its inputs, and what is known of its work."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from tilth.kernels.accuracy import outputs_and_gradients


@dataclass(frozen=True)
class Call:
    """`function(**tensors, **options)`, with gradients of every floating tensor where `gradients`."""

    name: str
    function: Callable[..., Any]
    tensors: dict[str, Tensor | None]
    options: dict[str, Any] = field(default_factory=dict)
    gradients: bool = True
    without_gradient: tuple[str, ...] = ()  # floating inputs through which none flows
    # For timing: floating-point operations and bytes that must move, forward and backward; 0 where it is not what counts.
    forward_flops: float = 0
    backward_flops: float = 0
    forward_bytes: float = 0
    backward_bytes: float = 0
    # What the same work is compared with: functions of the same tensors and options by keyword.
    peers: dict[str, Callable[..., Any]] = field(default_factory=dict)

    def run(self) -> dict[str, Tensor]:
        """Return outputs and gradients by name, the gradients for fixed random gradients of the outputs."""
        kept = self.without_gradient if self.gradients else tuple(self.tensors)
        return outputs_and_gradients(self.function, self.tensors, kept, **self.options)
