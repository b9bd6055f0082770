"""BitDelta: one sign per weight, and one scale per matrix.

Source: Liu et al., "BitDelta: Your Fine-Tune May Only Be Worth One Bit" (arXiv 2402.10193).
"""

from __future__ import annotations

import torch
from torch import Tensor

from tilth.deploy.codecs.codec import FLOAT32, MatrixCodec, Parts, Shape, check_matrix, check_parts
from tilth.deploy.signs import check_padding, n_words, pack_signs, unpack_signs
from tilth.inference.tenants.weights import SignTerm, Term


class BitDelta(MatrixCodec):
    """Parts: signs int32 (ceil(K/32), N) as published, scale fp32 ()."""

    name = "bitdelta"

    def encode_difference(self, difference_NK: Tensor) -> Parts:
        """The scale that loses least in the L2 norm is mean |difference|."""
        # summed in fp64: the scale of a large matrix must not depend on the order of a fp32 sum
        scale = difference_NK.abs().mean(dtype=torch.float64).float()
        return {"signs": pack_signs(difference_NK), "scale": scale}

    def decode(self, parts: Parts, shape: tuple[int, int]) -> Tensor:
        """scale * sign, fp32 (N, K)."""
        return parts["scale"] * unpack_signs(parts["signs"], shape[1])

    def terms(self, parts: Parts, shape: tuple[int, int]) -> list[Term]:
        """One product with signs."""
        return [SignTerm(parts["signs"], parts["scale"])]

    def check(self, parts: Parts, shape: Shape, dtype: torch.dtype) -> str | None:
        """What is wrong with the parts; None = nothing."""
        if problem := check_matrix(shape):
            return problem
        wanted = {"signs": ((torch.int32,), (n_words(shape[1]), shape[0])), "scale": (FLOAT32, ())}
        return check_parts(parts, wanted) or check_padding(parts["signs"], shape[1])
