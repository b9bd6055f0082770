"""SwiGLU as its equation, the truth that the other backends are tested against."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import silu

from tilth.kernels.backend import compute_dtype


def halves(gate_up_2F: Tensor, up_F: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the gate and up, each (..., F); views."""
    if up_F is not None:
        return gate_up_2F, up_F
    gate_F, up_F = gate_up_2F.chunk(2, dim=-1)
    return gate_F, up_F


def swiglu_reference(gate_up_2F: Tensor, up_F: Tensor | None = None) -> Tensor:
    """Return silu(gate) * up; (..., 2F) or two of (..., F) -> (..., F)."""
    dtype = compute_dtype(gate_up_2F)
    gate_F, up_F = halves(gate_up_2F, up_F)
    return (silu(gate_F.to(dtype)) * up_F.to(dtype)).to(gate_up_2F.dtype)


def forward(gate_up_2F: Tensor, up_F: Tensor | None) -> Tensor:
    """Return silu(gate) * up (..., F)."""
    return swiglu_reference(gate_up_2F, up_F).contiguous()


def backward(dy_F: Tensor, gate_up_2F: Tensor, up_F: Tensor | None) -> list[Tensor]:
    """Return the gradient of each input by differentiating the reference itself."""
    _, differentiate = torch.func.vjp(swiglu_reference, *[t for t in (gate_up_2F, up_F) if t is not None])
    return [gradient.contiguous() for gradient in differentiate(dy_F)]
