"""RMSNorm as a module over the kernel."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tilth.kernels import rms_norm


class RMSNorm(nn.Module):
    """x / rms(x) * weight over the last axis (Zhang & Sennrich 2019), in groups of width / n_groups channels."""

    no_weight_decay = ("weight",)

    def __init__(self, width: int, eps: float, n_groups: int = 1) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps
        self.n_groups = n_groups

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) -> (..., width)."""
        if self.n_groups == 1:
            return rms_norm(x, self.weight, eps=self.eps)
        groups = x.unflatten(-1, (self.n_groups, -1))
        ones = torch.ones_like(self.weight[: groups.shape[-1]])
        return rms_norm(groups, ones, eps=self.eps).flatten(-2) * self.weight
