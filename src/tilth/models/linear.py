"""The projections of every mixer and MLP: nn.Linear without a bias, over the kernel."""

from __future__ import annotations

from torch import Tensor, nn

from tilth.kernels import linear


class Linear(nn.Linear):
    """x (..., in_features) -> x @ weight.T (..., out_features)."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features, bias=False)

    def forward(self, input: Tensor) -> Tensor:
        """(..., in_features) -> (..., out_features)."""
        return linear(input, self.weight)
