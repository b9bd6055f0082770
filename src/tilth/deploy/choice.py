"""Which codec each tensor of a delta gets: matrices by what the user asks for, tables by bytes and error, the rest whole."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor

from tilth.deploy.codecs import CODECS, DEFAULT, Codec, Parts, Shape, parse_codec
from tilth.deploy.codecs.integer_rows import IntegerRows
from tilth.errors import DeltaError, did_you_mean

VOCABULARY_TABLES = ("embedding.weight", "head.weight")
# how the changed rows of a table may be kept, by `--tables`
TABLES: dict[str, Codec] = {
    "16": CODECS["rows"],
    "8": IntegerRows(8),
    "4": IntegerRows(4),
    "1": CODECS["rows-sign"],
    "whole": CODECS["whole"],
}
AUTO = "auto"
# A matrix of fewer values is kept whole where its code, scales and all, would be larger.
SMALL_VALUES = 512
# `auto` keeps 16 bits while all changed rows cost at most this share of the matrices at one bit a weight ...
CHEAP_SHARE = 0.25
# ... and else the fewest of 4 and 8 bits whose relative error (in the L2 norm) is at most this: a third of what one bit loses
TABLE_ERROR = 0.2


@dataclass(frozen=True)
class Choice:
    """matrices: the codec of the blocks' matrices; exceptions: (pattern of names, codec), the first that fits is taken.

    tables: "auto", or the bits of the changed rows of embedding and head: 16, 8, 4, 1, or "whole".
    Raises DeltaError for a name that is none.
    """

    matrices: str = DEFAULT
    exceptions: Sequence[tuple[str, str]] = ()
    tables: str = AUTO

    def __post_init__(self) -> None:
        for words in (self.matrices, *(codec for _, codec in self.exceptions)):
            parse_codec(words)
        if self.tables != AUTO and self.tables not in TABLES:
            fix = did_you_mean(self.tables, (AUTO, *TABLES))
            raise DeltaError(f"the rows of a table cannot be kept as `{self.tables}`", where="tables", fix=fix)

    @property
    def label(self) -> str:
        """As the user wrote it: `rank1`, or `rank1, blocks.0.*=residual:2`."""
        return ", ".join([self.matrices, *(f"{pattern}={codec}" for pattern, codec in self.exceptions)])

    def encode(self, name: str, base: Tensor, tuned: Tensor, n_matrix_weights: int) -> tuple[Codec, Parts]:
        """The codec of a tensor, and its parts. n_matrix_weights: of the whole model, for the share of its tables."""
        kind = kind_of(name, tuple(tuned.shape))
        if not tuned.is_floating_point() or kind == "other":
            codec = CODECS["whole"]
        elif kind == "matrices":
            return self._matrix(name, base, tuned)
        elif self.tables == AUTO:
            return _cheapest(base, tuned, n_matrix_weights)
        else:
            codec = TABLES[self.tables]
        return codec, codec.encode(base, tuned)

    def check_patterns(self, matrices: Iterable[str]) -> None:
        """Raise DeltaError for an exception that is of none of these matrices: it would do nothing, and say nothing."""
        names = list(matrices)
        for pattern, codec in self.exceptions:
            if not any(fnmatchcase(name, pattern) for name in names):
                fix = did_you_mean(pattern, names) + " `*` stands for any letters."
                raise DeltaError(f"no matrix is called `{pattern}`", where=f"codec {pattern}={codec}", fix=fix)

    def _matrix(self, name: str, base: Tensor, tuned: Tensor) -> tuple[Codec, Parts]:
        fitting = (words for pattern, words in self.exceptions if fnmatchcase(name, pattern))
        words = next(fitting, self.matrices)
        codec = parse_codec(words)
        parts = codec.encode(base, tuned)
        n_bytes = sum(part.nbytes for part in parts.values())
        if n_bytes > tuned.nbytes and tuned.numel() < SMALL_VALUES:
            whole = CODECS["whole"]
            return whole, whole.encode(base, tuned)
        if n_bytes > tuned.nbytes:
            raise DeltaError(
                f"{words} of {name} takes {n_bytes:,} bytes, and {tuned.nbytes:,} when it is kept whole",
                where="codec",
                fix=f"Take a smaller number, or keep it bit for bit: `--codec '{name}=whole'`.",
            )
        return codec, parts


def parse_choice(codecs: Sequence[str], tables: str = AUTO) -> Choice:
    """The choice of `--codec rank1 --codec 'blocks.0.*=residual:2' ...`: a codec for all, and exceptions by pattern."""
    plain = [words for words in codecs if "=" not in words]
    if len(plain) > 1:
        fix = f"Give one for all, and the others as `PATTERN={plain[1]}`."
        raise DeltaError(f"two codecs for all matrices: {plain[0]} and {plain[1]}", where="codec", fix=fix)
    exceptions = [(pattern, codec) for pattern, _, codec in (words.rpartition("=") for words in codecs if "=" in words)]
    return Choice(plain[0] if plain else DEFAULT, tuple(exceptions), tables)


def kind_of(name: str, shape: Shape) -> str:
    """ "matrices": the linear weights of the blocks (a convolution is a parameter called conv_weight, not a layer's weight);
    "tables": embedding and head; "other": all else.
    """
    if name in VOCABULARY_TABLES:
        return "tables"
    is_matrix = name.startswith("blocks.") and name.endswith(".weight") and len(shape) == 2
    return "matrices" if is_matrix else "other"


def _cheapest(base: Tensor, tuned: Tensor, n_matrix_weights: int) -> tuple[Codec, Parts]:
    exact = CODECS["rows"]
    parts = exact.encode(base, tuned)
    if sum(part.nbytes for part in parts.values()) <= CHEAP_SHARE * n_matrix_weights / 8:
        return exact, parts
    change = (tuned.float() - base.float()).norm()
    for codec in (TABLES["4"], TABLES["8"]):
        fewer = codec.encode(base, tuned)
        error = (codec.rebuild(fewer, base).float() - tuned.float()).norm()
        if bool(error <= TABLE_ERROR * change) and torch.isfinite(error):
            return codec, fewer
    return exact, parts
