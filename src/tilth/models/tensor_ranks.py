"""The processes among which every layer is cut, and the one thing that they say to each other: a sum that may travel.

The loss is the sum of what the ranks return, each for its share of the tokens. So every gradient is a part too: that of
what all ranks hold alike is the sum over the ranks, and a sum over the ranks in the forward pass is one in the backward.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor


class Travelling(Protocol):
    """A sum on its way; torch.distributed's Work is one."""

    def wait(self) -> Any:
        """Return once the tensor that was given holds the sum."""
        ...


@dataclass(frozen=True)
class TensorRanks:
    """This process's place among the `size` ranks of a process group."""

    rank: int = 0
    size: int = 1
    group: Any = None

    def start_sum(self, tensor: Tensor) -> Travelling:
        """Begin to replace tensor, contiguous, by its sum over the ranks."""
        work: Travelling = dist.all_reduce(tensor, group=self.group, async_op=True)
        return work

    def launch(self, part: Tensor) -> Launched:
        """Send part on its way; what is computed before `land` hides the journey, in the backward pass as well."""
        if self.size == 1:
            return Launched(part, None)
        flight = _Flight(self)
        return Launched(_Launch.apply(part, flight), flight)

    def sum(self, part: Tensor) -> Tensor:
        """The sum of part over the ranks, waited for at once."""
        return self.launch(part).land()

    def share(self, rows: Tensor) -> Tensor:
        """The rows along the first axis that this rank alone computes with."""
        return rows[self.rank :: self.size]


@dataclass(frozen=True)
class Launched:
    """A tensor whose sum over the ranks was begun."""

    tensor: Tensor
    flight: _Flight | None

    def land(self) -> Tensor:
        """Wait, and return the sum. To be called once."""
        landed: Tensor = self.tensor if self.flight is None else _Land.apply(self.tensor, self.flight)
        return landed


@dataclass
class _Flight:
    ranks: TensorRanks
    travelling: list[Travelling] = field(default_factory=list)


class _Launch(torch.autograd.Function):
    """Begins the sum; in the backward pass waits for the one of the gradient, which _Land began."""

    @staticmethod
    def forward(ctx: Any, part: Tensor, flight: _Flight) -> Tensor:
        ctx.flight = flight
        total = part.clone(memory_format=torch.contiguous_format)
        flight.travelling.append(flight.ranks.start_sum(total))
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        ctx.flight.travelling.pop().wait()
        return grad, None


class _Land(torch.autograd.Function):
    """Waits for the sum; in the backward pass begins that of the gradient. Autograd runs it before what lies between."""

    @staticmethod
    def forward(ctx: Any, total: Tensor, flight: _Flight) -> Tensor:
        ctx.flight = flight
        flight.travelling.pop().wait()
        return total.view_as(total)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        grad = grad.clone(memory_format=torch.contiguous_format)
        ctx.flight.travelling.append(ctx.flight.ranks.start_sum(grad))
        return grad, None
