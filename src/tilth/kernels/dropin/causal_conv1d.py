"""The functions of the package causal_conv1d (Dao), on `causal_conv1d`; channels come before tokens there."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from tilth.kernels.causal_conv1d import causal_conv1d
from tilth.kernels.causal_conv1d import causal_conv1d_update as update

_ACTIVATIONS = {None: None, "silu": "silu", "swish": "silu"}


def causal_conv1d_fn(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    seq_idx: Tensor | None = None,
    initial_states: Tensor | None = None,
    return_final_states: bool = False,
    activation: str | None = None,
) -> Any:
    """Return the convolution (B, C, T) of x (B, C, T) with weight (C, K); states are (B, C, K - 1).

    Raises as `causal_conv1d` does.
    """
    found = causal_conv1d(
        x.transpose(1, 2),
        weight,
        bias,
        activation=_activation(activation),
        segments_BT=seq_idx,
        initial_state_BKC=None if initial_states is None else initial_states.transpose(1, 2),
        return_final_state=return_final_states,
    )
    if not return_final_states:
        return found.transpose(1, 2)
    y, final = found
    return y.transpose(1, 2), final.transpose(1, 2)


def causal_conv1d_update(
    x: Tensor,
    conv_state: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
    conv_state_indices: Tensor | None = None,
) -> Tensor:
    """Return the convolution of new tokens x (B, C) or (B, C, T), and replace conv_state (B, C, K - 1) in place.

    The state holds the last K - 1 inputs in the order of time; the package's circular buffer (cache_seqlens) is not
    offered. Raises as `causal_conv1d_update` of `tilth.kernels` does.
    """
    is_one = x.dim() == 2
    x_BTC = x.unsqueeze(1) if is_one else x.transpose(1, 2)
    y = update(
        x_BTC,
        conv_state.transpose(1, 2),
        weight,
        bias,
        activation=_activation(activation),
        state_indices_B=conv_state_indices,
    )
    return y.squeeze(1) if is_one else y.transpose(1, 2)


def _activation(name: str | None) -> str | None:
    if name not in _ACTIVATIONS:
        raise ValueError(f"activation is {name!r}; expected None, 'silu' or 'swish'")
    return _ACTIVATIONS[name]
