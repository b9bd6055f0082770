"""Forms in which a checkpoint rests in the cache: as it is, or its SSM states in 8 bits with a scale for each head and channel.

A state is rounded once, when it is stored; what is computed from it is not rounded again until that is stored. Rounding within
the recurrence instead, step by step, is known to ruin answers. Whether a model bears it is for its logits to say.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from tilth.errors import UserError

LARGEST_CODE = 127
SCALE_BYTES = 4


class StateForm(Protocol):
    """Between the recurrent states of one position and what the cache keeps of them.

    States are tensors in pairs, layer after layer: the inputs of a convolution (1, d_conv - 1, C) and an SSM state (1, ..., N),
    as `Mamba2State` and `Mamba1State` hold them.
    """

    name: str

    def pack(self, states: Sequence[Tensor]) -> Any:
        """What the cache keeps; it shares no memory with the states."""
        ...

    def unpack(self, packed: Any) -> list[Tensor]:
        """States to go on from, new ones each time, in the dtypes that were packed."""
        ...

    def size_bytes(self, states: Sequence[Tensor]) -> int:
        """Exact bytes of what pack makes of states of such shapes: for StateCosts(checkpoint_bytes=...)."""
        ...


class Exact:
    """A copy, every bit of it."""

    name = "exact"

    def pack(self, states: Sequence[Tensor]) -> list[Tensor]:
        """A copy."""
        return [state.clone() for state in states]

    def unpack(self, packed: list[Tensor]) -> list[Tensor]:
        """A copy."""
        return [state.clone() for state in packed]

    def size_bytes(self, states: Sequence[Tensor]) -> int:
        """All tensors."""
        return sum(state.numel() * state.element_size() for state in states)


@dataclass(frozen=True)
class Int8State:
    """codes int8 (1, ..., N) times scales float32 (1, ..., 1), and the dtype of their product."""

    codes: Tensor
    scales: Tensor
    dtype: torch.dtype


class Int8:
    """SSM states as round(x / scale) with scale = max |x| over the N states of a head's channel / 127; convolution inputs as is.

    Each value is off by at most half a scale: 1/254 of the largest of its N. For normal values and N = 128 that is a relative
    error of 0.6 % (root mean square).
    """

    name = "int8"

    def pack(self, states: Sequence[Tensor]) -> list[Tensor | Int8State]:
        """Raises UserError for an SSM state that is not finite: nothing could be told from its codes."""
        packed: list[Tensor | Int8State] = []
        for conv_inputs, ssm in zip(states[::2], states[1::2], strict=True):
            packed += [conv_inputs.clone(), _rounded(ssm)]
        return packed

    def unpack(self, packed: Sequence[Tensor | Int8State]) -> list[Tensor]:
        """States with the rounding in them."""
        return [(part.codes * part.scales).to(part.dtype) if isinstance(part, Int8State) else part.clone() for part in packed]

    def size_bytes(self, states: Sequence[Tensor]) -> int:
        """Codes, scales and convolution inputs."""
        conv_inputs = sum(state.numel() * state.element_size() for state in states[::2])
        return conv_inputs + sum(ssm.numel() + SCALE_BYTES * (ssm.numel() // ssm.shape[-1]) for ssm in states[1::2])


def relative_error(states: Sequence[Tensor], form: StateForm) -> float:
    """||x - unpack(pack(x))|| / ||x|| of the tensor where it is largest; 0 for zeros, which every form keeps."""
    worst = 0.0
    for before, after in zip(states, form.unpack(form.pack(states)), strict=True):
        size = float(before.double().norm())
        worst = max(worst, float((before.double() - after.double()).norm()) / size if size else 0.0)
    return worst


def _rounded(ssm: Tensor) -> Int8State:
    wide = ssm.float()
    scales = wide.abs().amax(-1, keepdim=True) / LARGEST_CODE
    if not bool(torch.isfinite(scales).all()):
        raise UserError("an SSM state is not finite", "Int8.pack", "Keep no checkpoint of a pass that overflowed.")
    # where all N are zero any scale does, and 0 / 1 is 0
    codes = (wide / torch.where(scales > 0, scales, 1)).round().to(torch.int8)
    return Int8State(codes, scales, ssm.dtype)
