"""The convolution as a sum over its taps, the truth that the other backends are tested against."""

from __future__ import annotations

import torch
from torch import Tensor

from tilth.kernels.backend import compute_dtype
from tilth.kernels.causal_conv1d.inputs import ConvInputs
from tilth.kernels.causal_conv1d.state import update_by
from tilth.kernels.documents import number_documents


def causal_conv1d_reference(inputs: ConvInputs, activation: str | None, reverse: bool) -> Tensor:
    """Return act(bias + sum_j weight[:, K-1-j] x_{t-j}) over the j whose token belongs to t's document; x_{t+j} if reverse."""
    x_BTC, weight_CK, bias_C, segments_BT, initial_state_BKC = inputs
    dtype = compute_dtype(x_BTC, weight_CK)
    n_batch, n_tokens, n_channels = x_BTC.shape
    n_taps = weight_CK.shape[1]
    x, weight = x_BTC.to(dtype), weight_CK.to(dtype)
    if initial_state_BKC is None:
        outside = x.new_zeros(n_batch, n_taps - 1, n_channels)
    else:
        outside = initial_state_BKC.to(dtype)
    number_BT = x.new_zeros(n_batch, n_tokens, dtype=torch.int32) if segments_BT is None else number_documents(segments_BT)
    parts = (x, outside) if reverse else (outside, x)
    # The initial state belongs to the first document, whose number is 0, or to the last one if it is read backwards.
    edges = number_BT.new_zeros(n_batch, n_taps - 1)
    if reverse and n_tokens:
        edges = edges + number_BT[:, -1:]
    padded, number = torch.cat(parts, dim=1), torch.cat((number_BT, edges) if reverse else (edges, number_BT), dim=1)

    total = torch.zeros_like(x)
    for distance in range(n_taps):
        first = distance if reverse else n_taps - 1 - distance
        window = slice(first, first + n_tokens)
        is_seen = (number[:, window] == number_BT).unsqueeze(-1)
        total = total + torch.where(is_seen, padded[:, window], 0.0) * weight[:, n_taps - 1 - distance]
    if bias_C is not None:
        total = total + bias_C.to(dtype)
    if activation == "silu":
        total = total * torch.sigmoid(total)
    return total.to(x_BTC.dtype)


def forward(inputs: ConvInputs, activation: str | None, reverse: bool) -> Tensor:
    """Return y_BTC in the dtype of x."""
    return causal_conv1d_reference(inputs, activation, reverse).contiguous()


def backward(dy_BTC: Tensor, inputs: ConvInputs, activation: str | None, reverse: bool) -> tuple[Tensor, ...]:
    """Return the gradients of x, weight, bias and initial state (empty where not given), by differentiating the sum itself."""
    wanted = [name for name in ConvInputs._fields if name != "segments_BT"]
    names = [name for name in wanted if getattr(inputs, name) is not None]

    def run(*tensors: Tensor) -> Tensor:
        return causal_conv1d_reference(inputs._replace(**dict(zip(names, tensors, strict=True))), activation, reverse)

    _, differentiate = torch.func.vjp(run, *(getattr(inputs, name) for name in names))
    found = dict(zip(names, differentiate(dy_BTC), strict=True))
    # The outputs of an operator must not share memory with each other or with an input, as gradients of a cat may.
    return tuple(
        found[name].clone(memory_format=torch.contiguous_format) if name in found else dy_BTC.new_empty((0,)) for name in wanted
    )


def update(
    x_BTC: Tensor, state_SKC: Tensor, weight_CK: Tensor, bias_C: Tensor | None, activation: str | None, slots_B: Tensor | None
) -> Tensor:
    """Return y_BTC and replace the states by those after the new tokens."""
    return update_by(forward, x_BTC, state_SKC, weight_CK, bias_C, activation, slots_B)
