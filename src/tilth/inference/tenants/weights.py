"""What a fine-tune changes of its base, in the form in which a pass over rows of many tenants uses it."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class SignTerm:
    """scale * diag(row_scale) @ signs @ diag(column_scale), a part of a difference (N outputs, K inputs).

    signs_PN are packed as `kernels.sign_matmul.pack` lays them out: int32 (ceil(K / 32), N). The scales are float32; scale
    is (), row_scale_N (N,) and column_scale_K (K,), None = 1.
    """

    signs_PN: Tensor
    scale: Tensor | None = None
    row_scale_N: Tensor | None = None
    column_scale_K: Tensor | None = None


@dataclass(frozen=True)
class LowRankTerm:
    """up_NR @ down_RK, a part of a difference (N outputs, K inputs): a LoRA, or leading singular vectors."""

    up_NR: Tensor
    down_RK: Tensor


@dataclass(frozen=True)
class WholeTerm:
    """The fine-tune's matrix itself (N outputs, K inputs), in place of the base's: the only term of its matrix."""

    weight_NK: Tensor


Term = SignTerm | LowRankTerm | WholeTerm


@dataclass(frozen=True)
class ChangedRows:
    """The rows of a vocabulary's table that the tenant has other than the base: whole values, not differences.

    rows_R int64, rising; values_RD in the base's dtype.
    """

    rows_R: Tensor
    values_RD: Tensor


@dataclass(frozen=True)
class TenantWeights:
    """base + this is the fine-tune. What is named in none of the three is the base's own.

    Keys are the names of parameters in the decoder's state dict. products: of a matrix of a block the terms whose sum is its
    difference, or itself; tables: of "embedding.weight" and "head.weight"; vectors: norms, convolutions, biases and the like.
    digest tells the weights from all others (it is part of the root of a prefix cache). size_bytes is what it holds in memory.
    """

    digest: str
    products: dict[str, list[Term]] = field(default_factory=dict)
    tables: dict[str, ChangedRows] = field(default_factory=dict)
    vectors: dict[str, Tensor] = field(default_factory=dict)
    size_bytes: int = 0
