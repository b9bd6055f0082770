"""One sign per weight, and scales of the rows and the columns: what a matrix is by default.

|difference| is nearest to the outer product of its leading singular vectors; their 16 bits a row and a column are under
1 % of the bits at the widths of real models, and the product with the signs stays what it is: inputs are scaled before,
outputs after. Compare Per-Axis Weight Deltas (arXiv 2512.19720), which scales rows or columns.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tilth.deploy.codecs.codec import FLOAT32, SCALES, MatrixCodec, Parts, Shape, check_matrix, check_parts, check_product
from tilth.deploy.signs import check_padding, n_words, pack_signs, unpack_signs
from tilth.inference.tenants.weights import SignTerm, Term

# |difference| is near rank 1 itself (its entries are all positive), so each step gains a factor of about sqrt(width)
N_POWER_STEPS = 2


class Rank1(MatrixCodec):
    """Parts: signs as BitDelta's, scale fp32 (), row_scale (N,) and column_scale (K,) fp16 or fp32."""

    name = "rank1"

    def encode_difference(self, difference_NK: Tensor) -> Parts:
        """Signs, and the scales nearest to |difference| in the L2 norm."""
        scale, row_scale_N, column_scale_K = nearest_outer_product(difference_NK.abs())
        parts = {"row_scale": row_scale_N.half(), "column_scale": column_scale_K.half()}
        return {"signs": pack_signs(difference_NK), "scale": scale, **parts}

    def decode(self, parts: Parts, shape: tuple[int, int]) -> Tensor:
        """scale * row scale * column scale * sign, fp32 (N, K)."""
        rows_N, columns_K = parts["row_scale"].float(), parts["column_scale"].float()
        return unpack_signs(parts["signs"], shape[1]) * (parts["scale"] * rows_N)[:, None] * columns_K

    def terms(self, parts: Parts, shape: tuple[int, int]) -> list[Term]:
        """One product with signs."""
        return [SignTerm(parts["signs"], parts["scale"], parts["row_scale"].float(), parts["column_scale"].float())]

    def check(self, parts: Parts, shape: Shape, dtype: torch.dtype) -> str | None:
        """What is wrong with the parts; None = nothing."""
        if problem := check_matrix(shape):
            return problem
        n_outputs, n_inputs = shape
        wanted = {
            "signs": ((torch.int32,), (n_words(n_inputs), n_outputs)),
            "scale": (FLOAT32, ()),
            "row_scale": (SCALES, (n_outputs,)),
            "column_scale": (SCALES, (n_inputs,)),
        }
        problem = check_parts(parts, wanted) or check_padding(parts["signs"], n_inputs)
        return problem or check_product(parts["scale"], parts["row_scale"], parts["column_scale"])


def nearest_outer_product(magnitude_NK: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """scale (), row scale (N,) and column scale (K,), both of mean 1, fp32: by power iteration on a matrix of no negatives."""
    n_outputs, n_inputs = magnitude_NK.shape
    columns_K = magnitude_NK.sum(0)
    rows_N = columns_K.new_zeros(n_outputs)
    for _ in range(N_POWER_STEPS):
        columns_K = columns_K / columns_K.norm().clamp(min=torch.finfo(columns_K.dtype).tiny)
        rows_N = magnitude_NK @ columns_K
        columns_K = magnitude_NK.T @ rows_N
    # (rows of unit length) x (what they find in the columns) is the least-squares product
    columns_K = columns_K / rows_N.square().sum().clamp(min=torch.finfo(columns_K.dtype).tiny)
    row_mean, column_mean = rows_N.mean(), columns_K.mean()
    if not (row_mean > 0 and column_mean > 0):
        return magnitude_NK.new_zeros(()), magnitude_NK.new_ones(n_outputs), magnitude_NK.new_ones(n_inputs)
    return row_mean * column_mean, rows_N / row_mean, columns_K / column_mean
