"""The leading singular vectors of a difference: what is left of a fine-tune that was a LoRA, or nearly one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tilth.deploy.codecs.codec import FLOAT32, MatrixCodec, Parts, Shape, check_matrix, check_parts, check_product
from tilth.inference.tenants.weights import LowRankTerm, Term

# up to this side the decomposition is exact; beyond, subspace iteration finds the leading vectors in a fraction of the time
EXACT_SIDE = 512
N_SUBSPACE_STEPS = 4
N_EXTRA = 16
BITS_A_FACTOR = 16


@dataclass(frozen=True)
class LowRank(MatrixCodec):
    """Truncated SVD. Parts: up fp16 (N, R) and down fp16 (R, K), both of unit vectors, and scale fp32 (R,).

    rank None = as many as cost one bit per weight.
    """

    rank: int | None = None
    name = "low-rank"

    def encode_difference(self, difference_NK: Tensor) -> Parts:
        """The `rank` largest singular values and their vectors."""
        n_outputs, n_inputs = difference_NK.shape
        one_bit = n_outputs * n_inputs // (BITS_A_FACTOR * (n_outputs + n_inputs))
        rank = min(self.rank or max(1, one_bit), n_outputs, n_inputs)
        up_NR, scale_R, down_RK = leading_vectors(difference_NK, rank)
        return {"up": up_NR.half().contiguous(), "scale": scale_R, "down": down_RK.half().contiguous()}

    def decode(self, parts: Parts, shape: tuple[int, int]) -> Tensor:
        """up * scale @ down, fp32 (N, K)."""
        return (parts["up"].float() * parts["scale"]) @ parts["down"].float()

    def terms(self, parts: Parts, shape: tuple[int, int]) -> list[Term]:
        """One product of rank R, in fp32."""
        return [LowRankTerm(parts["up"].float() * parts["scale"], parts["down"].float())]

    def check(self, parts: Parts, shape: Shape, dtype: torch.dtype) -> str | None:
        """What is wrong with the parts; None = nothing."""
        if problem := check_matrix(shape):
            return problem
        n_outputs, n_inputs = shape
        rank = parts["scale"].shape[0] if "scale" in parts and parts["scale"].ndim == 1 else 0
        half = (torch.float16,)
        wanted = {"up": (half, (n_outputs, rank)), "down": (half, (rank, n_inputs)), "scale": (FLOAT32, (rank,))}
        problem = check_parts(parts, wanted) or ("has the rank 0" if rank == 0 else None)
        return problem or check_product(*parts.values(), n_terms=rank)


def leading_vectors(matrix_NK: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """Unit vectors (N, R), singular values (R,) and unit vectors (R, K); the same on every call."""
    if min(matrix_NK.shape) <= max(EXACT_SIDE, rank + N_EXTRA):
        up_NN, values, down_KK = torch.linalg.svd(matrix_NK, full_matrices=False)
        return up_NN[:, :rank], values[:rank], down_KK[:rank]
    # Halko, Martinsson & Tropp 2011 (arXiv 0909.4061), algorithm 4.4
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(matrix_NK @ torch.randn(matrix_NK.shape[1], rank + N_EXTRA, generator=generator)).Q
    for _ in range(N_SUBSPACE_STEPS):
        basis = torch.linalg.qr(matrix_NK @ torch.linalg.qr(matrix_NK.T @ basis).Q).Q
    up, values, down = torch.linalg.svd(basis.T @ matrix_NK, full_matrices=False)
    return (basis @ up)[:, :rank], values[:rank], down[:rank]
