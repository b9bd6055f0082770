"""What the convolution reads, as one value: every backend takes it, so the list of tensors is written once."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from tilth.kernels.backend import check_device, check_float, check_segments, check_shape

MAX_TAPS = 8
ACTIVATIONS = (None, "silu")


class ConvInputs(NamedTuple):
    """The tensors of `causal_conv1d`, in the order of the operator's schema; None = not given."""

    x_BTC: Tensor
    weight_CK: Tensor
    bias_C: Tensor | None
    segments_BT: Tensor | None
    initial_state_BKC: Tensor | None

    def check(self) -> None:
        """Raise ValueError for shapes, dtypes or devices that do not fit."""
        check_taps(self.x_BTC, self.weight_CK, self.bias_C)
        n_batch, n_tokens, n_channels = self.x_BTC.shape
        if self.segments_BT is not None:
            check_segments(self.segments_BT, (n_batch, n_tokens))
        if self.initial_state_BKC is not None:
            shape = (n_batch, self.weight_CK.shape[1] - 1, n_channels)
            check_shape("initial_state_BKC", self.initial_state_BKC, shape, "B, K - 1, C")
            check_float("initial_state_BKC", self.initial_state_BKC)
        check_device(self.x_BTC, segments_BT=self.segments_BT, initial_state_BKC=self.initial_state_BKC)


def check_taps(x_BTC: Tensor, weight_CK: Tensor, bias_C: Tensor | None, fewest: int = 1) -> None:
    """Raise ValueError unless the input, the taps and the bias fit together."""
    if x_BTC.dim() != 3:
        raise ValueError(f"x_BTC has shape {tuple(x_BTC.shape)}; expected 3 dimensions (B, T, C)")
    if weight_CK.dim() != 2 or not fewest <= weight_CK.shape[1] <= MAX_TAPS:
        raise ValueError(f"weight_CK has shape {tuple(weight_CK.shape)}; expected (C, K) with K from {fewest} to {MAX_TAPS}")
    n_channels = x_BTC.shape[2]
    check_shape("weight_CK", weight_CK, (n_channels, weight_CK.shape[1]), "C, K")
    check_float("x_BTC", x_BTC)
    check_float("weight_CK", weight_CK)
    if bias_C is not None:
        check_shape("bias_C", bias_C, (n_channels,), "C")
        check_float("bias_C", bias_C)
    check_device(x_BTC, weight_CK=weight_CK, bias_C=bias_C)


def check_activation(activation: str | None) -> None:
    """Raise ValueError for an activation that does not exist."""
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation is {activation!r}; expected None or 'silu'")
