"""What one step of the recurrence reads besides the states."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class StepInputs(NamedTuple):
    """The tensors of `ssd_step`, in the order of the operator's schema; None = not given."""

    x_BHP: Tensor
    dt_BH: Tensor
    A_H: Tensor
    B_BGN: Tensor
    C_BGN: Tensor
    D_H: Tensor | None
    z_BHP: Tensor | None
    dt_bias_H: Tensor | None
    state_indices_B: Tensor | None

    def one_row(self) -> StepInputs:
        """The heads and groups of all rows as those of one row, each with parameters of its own."""
        flat = {name: None if tensor is None else tensor.flatten(0, 1) for name, tensor in self._asdict().items()}
        of_heads = ("A_H", "D_H", "dt_bias_H")
        return StepInputs(**{name: t if t is None or name in of_heads else t.unsqueeze(0) for name, t in flat.items()})

    def check_indices(self, n_states: int) -> None:
        """Raise ValueError for a number outside the pool; on a GPU an assertion that nobody waits for."""
        indices = self.state_indices_B
        if indices is None:
            return
        holds = ((indices >= -1) & (indices < n_states)).all()
        message = f"state_indices_B must hold -1 or numbers below {n_states}, the size of the pool"
        if indices.device.type != "cpu":
            torch._assert_async(holds, message)
        elif not holds:
            raise ValueError(f"{message}; got {indices.tolist()[:8]}")
