"""What a model is: every size, checked before any memory is spent; free of torch."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from tilth.errors import RecipeError, did_you_mean
from tilth.models.pattern import parse_pattern
from tilth.models.residual import RESIDUALS
from tilth.models.rotary import check_scaling

POOLINGS = ("mean", "last", "echo")
VOCAB_MULTIPLE = 8
MLP_MULTIPLE = 64


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """One decoder. None means "derive it": the derived value replaces it, so a saved config is explicit.

    n_heads may be 0 only in a model without attention. d_ff=0 means blocks without an MLP.
    rope_theta=None means no positions (the mamba2 layers carry the order); rope_share is the part of a head's channels
    that is rotated, and rope_scaling stretches the positions (see rotary.py). dt_rank belongs to mamba1.
    residual is a topology of residual.py, which holds from layer residual_from on; desync_ranks is the number of ranks
    that a desync model is cut into. A bidirectional model reads both ways, so it cannot generate. complement gives
    the id that pairs with each id on the other strand of DNA; with rcps the model shares its parameters between the
    strands (Caduceus-PS), and rcps_swap is the form of its released weights. With n_classes it also tells what a document
    is, from the pooling of its tokens (pooling.py). Raises RecipeError.
    """

    vocab_size: int
    d_model: int
    layers: str = "MMMA*2"
    n_heads: int = 0
    n_kv_heads: int | None = None
    head_dim: int | None = None
    d_ff: int | None = None
    d_state: int = 64
    expand: int = 2
    ssm_head_dim: int = 64
    n_groups: int = 1
    d_conv: int = 4
    chunk_size: int = 64
    dt_rank: int | None = None
    rope_theta: float | None = 10_000.0
    rope_share: float = 1.0
    rope_scaling: Mapping[str, float] | None = None
    norm_eps: float = 1e-5
    tie_embeddings: bool = True
    residual: str = "standard"
    residual_from: int = 0
    desync_ranks: int = 1
    bidirectional: bool = False
    complement: tuple[int, ...] | None = None
    rcps: bool = False
    rcps_swap: bool = False
    n_classes: int = 0
    pooling: str = "mean"

    def __post_init__(self) -> None:
        """Check every field, and replace None by what it stands for."""
        pattern = parse_pattern(self.layers)
        for name in _POSITIVE:
            _require_int(name, getattr(self, name), minimum=1)
        _require_int("n_heads", self.n_heads, minimum=0)
        if self.d_ff is None:
            width = -(-8 * self.d_model // (3 * MLP_MULTIPLE)) * MLP_MULTIPLE
            object.__setattr__(self, "d_ff", width)
        _require_int("d_ff", self.d_ff, minimum=0)
        self._resolve_attention(needed="A" in pattern)
        if self.rope_scaling is not None:
            if self.rope_theta is None:
                raise _bad(
                    "rope_scaling", self.rope_scaling, "stretches positions, but rope_theta=None means that there are none"
                )
            object.__setattr__(self, "rope_scaling", check_scaling(self.rope_scaling))
        if "M" in pattern or "D" in pattern:
            self._check_mamba2()
        if self.dt_rank is None:
            object.__setattr__(self, "dt_rank", -(-self.d_model // 16))
        _require_int("dt_rank", self.dt_rank, minimum=1)
        if not _is_number(self.norm_eps) or not 0 < self.norm_eps < 1:
            raise _bad("norm_eps", repr(self.norm_eps), "must be a number between 0 and 1")
        for name in ("tie_embeddings", "bidirectional", "rcps", "rcps_swap"):
            if not isinstance(getattr(self, name), bool):
                raise _bad(name, repr(getattr(self, name)), "must be True or False")
        self._check_residual()
        self._check_strands()
        _require_int("n_classes", self.n_classes, minimum=0)
        if self.pooling not in POOLINGS:
            raise _bad("pooling", repr(self.pooling), did_you_mean(str(self.pooling), POOLINGS))

    def _resolve_attention(self, *, needed: bool) -> None:
        if needed and self.n_heads == 0:
            raise _bad("n_heads", 0, f"but layers={self.layers!r} has attention (A): give n_heads")
        if self.n_kv_heads is None:
            object.__setattr__(self, "n_kv_heads", self.n_heads)
        if self.head_dim is None:
            if needed and self.d_model % self.n_heads:
                raise _bad("n_heads", self.n_heads, f"must divide d_model={self.d_model}, or give head_dim")
            object.__setattr__(self, "head_dim", self.d_model // max(self.n_heads, 1))
        if not needed:
            return
        _require_int("n_kv_heads", self.n_kv_heads, minimum=1)
        _require_int("head_dim", self.head_dim, minimum=1)
        if self.n_heads % self.kv_heads:
            raise _bad("n_kv_heads", self.n_kv_heads, f"must divide n_heads={self.n_heads}")
        if self.rope_theta is None:
            return
        if not _is_number(self.rope_theta) or not 0 < self.rope_theta < math.inf:
            raise _bad("rope_theta", repr(self.rope_theta), "must be a positive number, or None for no positions")
        if not _is_number(self.rope_share) or not 0 < self.rope_share <= 1:
            raise _bad("rope_share", repr(self.rope_share), "must be above 0 and at most 1")
        if self.rotated_dim % 2 or not self.rotated_dim:
            raise _bad("head_dim", self.head_dim, "times rope_share must be even to be rotated (or rope_theta=None)")

    def _check_mamba2(self) -> None:
        if self.d_inner % self.ssm_head_dim:
            raise _bad("ssm_head_dim", self.ssm_head_dim, f"must divide expand * d_model = {self.d_inner}")
        if self.n_ssm_heads % self.n_groups:
            raise _bad("n_groups", self.n_groups, f"must divide the {self.n_ssm_heads} SSM heads")

    def _check_residual(self) -> None:
        if not isinstance(self.residual, str) or self.residual not in RESIDUALS:
            raise _bad("residual", repr(self.residual), did_you_mean(str(self.residual), RESIDUALS))
        _require_int("residual_from", self.residual_from, minimum=0)
        if self.residual_from >= len(self.pattern):
            raise _bad("residual_from", self.residual_from, f"must be one of the {len(self.pattern)} layers, counted from 0")
        if self.residual_from and self.residual == "standard":
            raise _bad("residual_from", self.residual_from, "is where another residual than the standard one begins")
        _require_int("desync_ranks", self.desync_ranks, minimum=1)
        if self.residual.startswith("desync") != (self.desync_ranks > 1):
            raise _bad("desync_ranks", self.desync_ranks, "must be 2 or more with a desync residual, and 1 with any other")
        if self.desync_ranks > 1 and self.residual_from:
            raise _bad("residual_from", self.residual_from, "must be 0 with a desync residual")

    def _check_strands(self) -> None:
        if self.complement is None:
            if self.rcps:
                raise _bad("rcps", True, "needs complement: the id that pairs with each id")
        else:
            object.__setattr__(self, "complement", tuple(self.complement))
            ids = self.complement
            paired = len(ids) == self.vocab_size and all(isinstance(i, int) and 0 <= i < len(ids) for i in ids)
            if not paired or any(ids[ids[i]] != i for i in range(len(ids))):
                raise _bad("complement", list(ids), f"must pair each of the {self.vocab_size} ids with one, both ways")
        if self.rcps and not self.bidirectional:
            raise _bad("rcps", True, "reads the other strand from its end, so what it would predict: needs bidirectional=True")
        if self.rcps and self.pooling != "mean":
            raise _bad("pooling", repr(self.pooling), "is not the same for both strands; with rcps it must be 'mean'")
        if self.rcps_swap and not self.rcps:
            raise _bad("rcps_swap", True, "is a form of rcps, which is False")

    @property
    def pattern(self) -> str:
        """One letter per layer."""
        return parse_pattern(self.layers)

    @property
    def kv_heads(self) -> int:
        """Key/value heads of an attention layer."""
        return cast(int, self.n_kv_heads)

    @property
    def attention_head_dim(self) -> int:
        """Channels of one attention head."""
        return cast(int, self.head_dim)

    @property
    def rotated_dim(self) -> int:
        """Channels of a head that are rotated, from the first on."""
        return int(self.attention_head_dim * self.rope_share)

    @property
    def mlp_width(self) -> int:
        """Hidden channels of the SwiGLU MLP; 0 = the blocks have none."""
        return cast(int, self.d_ff)

    @property
    def padded_vocab_size(self) -> int:
        """Rows of the embedding: aligned for the matrix units; the rows beyond vocab_size are never predicted."""
        return -(-self.vocab_size // VOCAB_MULTIPLE) * VOCAB_MULTIPLE

    @property
    def dt_width(self) -> int:
        """Channels that a mamba1 mixer makes its time steps from."""
        return cast(int, self.dt_rank)

    @property
    def d_inner(self) -> int:
        """Channels inside a mamba mixer."""
        return self.expand * self.d_model

    @property
    def n_ssm_heads(self) -> int:
        """Heads of a mamba2 mixer."""
        return self.d_inner // self.ssm_head_dim

    @property
    def conv_width(self) -> int:
        """Channels that pass the convolution of a mamba2 mixer: [x, B, C]."""
        return self.d_inner + 2 * self.n_groups * self.d_state

    @property
    def sublayers_per_layer(self) -> int:
        """A mixer, and an MLP if there is one."""
        return 2 if self.mlp_width else 1

    @property
    def n_sublayers(self) -> int:
        """Outputs added to the residual stream over the whole depth."""
        return len(self.pattern) * self.sublayers_per_layer

    def n_parameters(self) -> int:
        """Number of trained values, the padding rows of the embedding included."""
        from tilth.models.sizes import count_parameters

        return count_parameters(self)

    def flops_per_token(self, seq_len: int) -> float:
        """Training FLOPs (forward and backward) per token; see sizes.count_training_flops for the convention."""
        from tilth.models.sizes import count_training_flops

        return count_training_flops(self, seq_len)

    def to_dict(self) -> dict[str, Any]:
        """All fields, derived values filled in; from_dict gives an equal config."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ModelConfig:
        """The config of a mapping; raises RecipeError for an unknown or missing key."""
        fields = {field.name: field for field in dataclasses.fields(cls)}
        for key in values:
            if key not in fields:
                raise _bad(str(key), repr(values[key]), f"is no setting of a model. {did_you_mean(str(key), fields)}")
        for name, field in fields.items():
            if field.default is dataclasses.MISSING and name not in values:
                raise _bad(name, "nothing", "must be given")
        return cls(**values)


_POSITIVE = ("vocab_size", "d_model", "d_state", "expand", "ssm_head_dim", "n_groups", "d_conv", "chunk_size")


def _require_int(name: str, value: object, *, minimum: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
        raise _bad(name, repr(value), f"must be an integer of at least {minimum}")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _bad(name: str, value: object, problem: str) -> RecipeError:
    return RecipeError(f"the model's {name} is {value}", where=f"ModelConfig.{name}", fix=problem)
