"""A tensor as the fine-tune has it, bit for bit: norms, convolutions, biases, and whatever else is small."""

from __future__ import annotations

import torch
from torch import Tensor

from tilth.deploy.codecs.codec import Codec, Parts, Shape, check_parts


class Whole(Codec):
    """Parts: values, in the shape and type of the tensor."""

    name = "whole"

    def encode(self, base: Tensor, tuned: Tensor) -> Parts:
        """A copy of tuned."""
        return {"values": tuned.clone()}

    def rebuild(self, parts: Parts, base: Tensor) -> Tensor:
        """The values."""
        return parts["values"]

    def check(self, parts: Parts, shape: Shape, dtype: torch.dtype) -> str | None:
        """What is wrong with the parts; None = nothing."""
        return check_parts(parts, {"values": ((dtype,), shape)})
