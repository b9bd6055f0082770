"""The codecs of a delta: a file each, and the registry in which a delta's file and a user find them by name.

bitdelta    one sign per weight, one scale per matrix, as published
rank1       one sign per weight, scales of rows and columns: the default
residual    several signs per weight
low_rank    the leading singular vectors
lora        an adapter as it was trained
whole       bit for bit
rows, integer_rows, sign_rows    the changed rows of a vocabulary's table, at 16, at 8 or 4, or at 1 bits
"""

from __future__ import annotations

from collections.abc import Callable

from tilth.deploy.codecs.bitdelta import BitDelta
from tilth.deploy.codecs.codec import Codec, MatrixCodec, Parts, Shape
from tilth.deploy.codecs.integer_rows import IntegerRows
from tilth.deploy.codecs.lora import Lora
from tilth.deploy.codecs.low_rank import LowRank
from tilth.deploy.codecs.rank1 import Rank1
from tilth.deploy.codecs.residual import Residual
from tilth.deploy.codecs.rows import Rows
from tilth.deploy.codecs.sign_rows import SignRows
from tilth.deploy.codecs.whole import Whole
from tilth.errors import DeltaError, did_you_mean

__all__ = ["CODECS", "DEFAULT", "Codec", "MatrixCodec", "Parts", "Shape", "find_codec", "parse_codec"]

DEFAULT = "rank1"
CODECS: dict[str, Codec] = {
    codec.name: codec
    for codec in (BitDelta(), Rank1(), Residual(), LowRank(), Lora(), Whole(), Rows(), IntegerRows(), SignRows())
}
# what `--codec NAME:NUMBER` makes of the number
_NUMBERED: dict[str, Callable[[int], Codec]] = {"residual": Residual, "low-rank": LowRank}
_OF_MATRICES = ("bitdelta", "rank1", "residual", "low-rank", "whole")


def find_codec(name: str, version: int | None = None) -> Codec:
    """The codec of that name, to decode with; raises DeltaError for an unknown name or version."""
    if name not in CODECS:
        raise DeltaError(f"no codec is called {name!r}", where="codec", fix=did_you_mean(name, CODECS))
    codec = CODECS[name]
    if version not in (None, codec.version):
        raise DeltaError(
            f"codec {name} has version {codec.version} here, and the delta was made by version {version}",
            where="codec version",
            fix="Read it with the Tilth that made it, or deploy the run again.",
        )
    return codec


def parse_codec(words: str) -> Codec:
    """The codec that `rank1`, `residual:2` or `low-rank:16` means for a matrix. Raises DeltaError."""
    name, colon, number = words.partition(":")
    if name not in _OF_MATRICES:
        raise DeltaError(f"no codec of matrices is called {name!r}", where="codec", fix=did_you_mean(name, _OF_MATRICES))
    if not colon:
        return CODECS[name]
    if name not in _NUMBERED:
        raise DeltaError(f"codec {name} has no `:{number}`", where="codec", fix=f"Write `{name}`.")
    if not number.isdecimal() or int(number) < 1:
        raise DeltaError(f"`{words}` does not say how many", where="codec", fix=f"Write for example `{name}:2`.")
    return _NUMBERED[name](int(number))
