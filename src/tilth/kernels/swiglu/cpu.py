"""SwiGLU on the CPU, in blocks of rows that stay in the cache from the first operation on them to the last."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from tilth.kernels.swiglu.reference import halves

# Elements of a block (benchmarks/kernels_cpu.py): two operations gain less from a cache than starting them again costs.
_FORWARD_BLOCK, _BACKWARD_BLOCK = 1 << 20, 1 << 18
_silu_out = torch.ops.aten.silu.out
_silu_backward_out = torch.ops.aten.silu_backward.grad_input


def forward(gate_up_2F: Tensor, up_F: Tensor | None) -> Tensor:
    """Return silu(gate) * up (..., F)."""
    gate, up = halves(gate_up_2F, up_F)
    y = gate.new_empty(gate.shape)
    for y_rows, gate_rows, up_rows in _blocks(_FORWARD_BLOCK, y, gate, up):
        _silu_out(gate_rows, out=y_rows)
        y_rows.mul_(up_rows)
    return y


def backward(dy_F: Tensor, gate_up_2F: Tensor, up_F: Tensor | None) -> list[Tensor]:
    """Return the gradient of each input: dgate = silu'(gate) * dy * up, dup = silu(gate) * dy."""
    gradients = [t.new_empty(t.shape) for t in (gate_up_2F, up_F) if t is not None]
    dgate, dup = halves(gradients[0], None if up_F is None else gradients[1])
    differentiate = _block_backward if dy_F.element_size() >= 4 else _block_backward_in_16_bits
    for block in _blocks(_BACKWARD_BLOCK, dgate, dup, dy_F, *halves(gate_up_2F, up_F)):
        differentiate(*block)
    return gradients


def _block_backward(dgate: Tensor, dup: Tensor, dy: Tensor, gate: Tensor, up: Tensor) -> None:
    """With s = sigmoid(gate): dup = dy * gate * s, and dgate = up * (dup + s * (dy - dup)); one exponential for both."""
    torch.sigmoid(gate, out=dgate)
    torch.mul(gate, dgate, out=dup)
    dup.mul_(dy)
    torch.lerp(dup, dy, dgate, out=dgate)
    dgate.mul_(up)


def _block_backward_in_16_bits(dgate: Tensor, dup: Tensor, dy: Tensor, gate: Tensor, up: Tensor) -> None:
    """A sigmoid rounded to 16 bits would be too far off: torch's own gradient keeps it in float32."""
    torch.mul(dy, up, out=dup)  # what only dgate needs lies in dup meanwhile
    _silu_backward_out(dup, gate, grad_input=dgate)
    _silu_out(gate, out=dup)
    dup.mul_(dy)


def _blocks(n_elements: int, *tensors_F: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yield all tensors' rows, `n_elements` of each at a time; those to be written must be views of their whole."""
    n_channels = tensors_F[0].shape[-1]
    n_rows = max(1, n_elements // n_channels)
    return zip(*(t.reshape(t.numel() // n_channels, n_channels).split(n_rows) for t in tensors_F), strict=True)
