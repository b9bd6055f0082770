"""RMSNorm as a module over the kernel."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tilth.kernels import rms_norm


class RMSNorm(nn.Module):
    """x / rms(x) * weight over the last axis (Zhang & Sennrich 2019), in groups of width / n_groups channels.

    With a gate, x * silu(gate) is normalised instead of x, as in Mamba-2.
    """

    no_weight_decay = ("weight",)

    def __init__(self, width: int, eps: float, n_groups: int = 1) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps
        self.group_size = width // n_groups

    def forward(self, x: Tensor, gate: Tensor | None = None) -> Tensor:
        """(..., width) -> (..., width)."""
        return rms_norm(x, self.weight, self.eps, gate_D=gate, norm_before_gate=gate is None, group_size=self.group_size)
