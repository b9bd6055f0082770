"""The inputs that a convolution still remembers, for continuing a row and for decoding."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from tilth.kernels.causal_conv1d.inputs import ConvInputs
from tilth.kernels.documents import number_documents


def final_state(inputs: ConvInputs, reverse: bool) -> Tensor:
    """Return the K - 1 inputs (B, K-1, C) that the tokens after the row would see, zeros where there is none.

    Of packed documents only the last counts (the first, if `reverse`).
    """
    x_BTC, segments_BT, initial = inputs.x_BTC, inputs.segments_BT, inputs.initial_state_BKC
    n_state, n_tokens = inputs.weight_CK.shape[1] - 1, x_BTC.shape[1]
    nearest = slice(0, n_state) if reverse else slice(max(n_tokens - n_state, 0), n_tokens)
    known_BTC = x_BTC[:, nearest]
    if initial is None:
        initial = x_BTC.new_zeros(x_BTC.shape[0], n_state, x_BTC.shape[2])
    if segments_BT is not None and n_tokens:
        number_BT = number_documents(segments_BT)
        last_B1 = number_BT[:, :1] if reverse else number_BT[:, -1:]
        known_BTC = torch.where((number_BT[:, nearest] == last_B1).unsqueeze(-1), known_BTC, 0.0)
        initial = torch.where((number_BT[:, :1] == number_BT[:, -1:]).unsqueeze(-1), initial, 0.0)
    if reverse:
        return torch.cat([known_BTC, initial.to(x_BTC.dtype)], dim=1)[:, :n_state]
    return torch.cat([initial.to(x_BTC.dtype), known_BTC], dim=1)[:, known_BTC.shape[1] :]


def update_by(
    forward: Callable[[ConvInputs, str | None, bool], Tensor],
    x_BTC: Tensor,
    state_SKC: Tensor,
    weight_CK: Tensor,
    bias_C: Tensor | None,
    activation: str | None,
    slots_B: Tensor | None,
) -> Tensor:
    """Continue the rows by `forward`, return y_BTC and replace the states; a row whose slot is -1 gives zeros."""
    rows = torch.arange(x_BTC.shape[0], device=x_BTC.device) if slots_B is None else (slots_B >= 0).nonzero().squeeze(-1)
    slots = rows if slots_B is None else slots_B[rows].long()
    old_SKC, new_BTC = state_SKC[slots], x_BTC[rows]
    y_BTC = torch.zeros(x_BTC.shape, dtype=x_BTC.dtype, device=x_BTC.device)
    y_BTC[rows] = forward(ConvInputs(new_BTC, weight_CK, bias_C, None, old_SKC), activation, False)
    state_SKC[slots] = torch.cat([old_SKC, new_BTC.to(old_SKC.dtype)], dim=1)[:, new_BTC.shape[1] :]
    return y_BTC
