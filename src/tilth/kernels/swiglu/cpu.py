"""SwiGLU on the CPU: torch's own silu, its product written in place, and a gradient without temporaries."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import silu

from tilth.kernels.swiglu.reference import halves

_silu_out = torch.ops.aten.silu.out
_silu_backward_out = torch.ops.aten.silu_backward.grad_input


def forward(gate_up_2F: Tensor, up_F: Tensor | None) -> Tensor:
    """Return silu(gate) * up (..., F)."""
    gate_F, up_F = halves(gate_up_2F, up_F)
    return silu(gate_F).mul_(up_F).contiguous()


def backward(dy_F: Tensor, gate_up_2F: Tensor, up_F: Tensor | None) -> list[Tensor]:
    """Return the gradient of each input: dgate = silu'(gate) * dy * up, dup = silu(gate) * dy."""
    gradients = [t.new_empty(t.shape) for t in (gate_up_2F, up_F) if t is not None]
    gate, up = halves(gate_up_2F, up_F)
    dgate, dup = halves(gradients[0], None if up_F is None else gradients[1])
    # dup holds dy * up first, which only dgate needs.
    torch.mul(dy_F, up, out=dup)
    _silu_backward_out(dup, gate, grad_input=dgate)
    _silu_out(gate, out=dup)
    dup.mul_(dy_F)
    return gradients
