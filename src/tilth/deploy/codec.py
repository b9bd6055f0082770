"""What a delta is: encoded differences of the blocks' matrices, 16-bit differences of the vocabulary's tables, the rest whole.

The paper keeps embedding and head at the model's own 16 bits. Ours are often fp32, and with a small model they are most
of the delta: the difference in bf16 is off by at most 1/256 of the change itself, far below what one bit costs the matrices.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from tilth.deploy.signs import check_signs, decode_signs, encode_signs
from tilth.errors import DeltaError, did_you_mean
from tilth.models.weights import weights_digest

StateDict = Mapping[str, Tensor]
Parts = dict[str, Tensor]
VOCABULARY_TABLES = ("embedding.weight", "head.weight")
ROUNDED_TO = torch.bfloat16


@dataclass(frozen=True)
class Codec:
    """How the difference of one matrix (N outputs, K inputs) becomes named tensors and back.

    encode(difference_NK fp32) -> parts; decode(parts, (N, K)) -> fp32 (N, K), differentiable in the
    part called "scale"; check(parts, (N, K)) -> what is wrong with them, or None.
    """

    name: str
    version: int
    encode: Callable[[Tensor], Parts]
    decode: Callable[[Parts, tuple[int, int]], Tensor]
    check: Callable[[Parts, tuple[int, int]], str | None]


CODECS = {codec.name: codec for codec in [Codec("bitdelta", 1, encode_signs, decode_signs, check_signs)]}


@dataclass(frozen=True)
class Encoded:
    """One matrix of the base's shape (N, K), as the parts of a codec."""

    shape: tuple[int, int]
    parts: Parts


@dataclass(frozen=True)
class Delta:
    """tuned - base. What is in none of the three is bit for bit that of the base.

    encoded: matrices of the blocks, in the parts of the codec; rounded: tuned - base in bf16; whole: tuned itself, exact.
    """

    codec: str
    version: int
    base_digest: str
    tuned_digest: str
    encoded: dict[str, Encoded]
    rounded: dict[str, Tensor]
    whole: dict[str, Tensor]


def find_codec(name: str, version: int | None = None) -> Codec:
    """The codec of that name; raises DeltaError for an unknown name or version."""
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


def is_encodable(name: str, tensor: Tensor) -> bool:
    """True for the linear weights inside the blocks; a convolution is a parameter called conv_weight, not a layer's weight."""
    return name.startswith("blocks.") and name.endswith(".weight") and tensor.ndim == 2 and tensor.is_floating_point()


def is_roundable(name: str, tensor: Tensor) -> bool:
    """True for an embedding or head wider than 16 bits; a narrower one is no larger whole, and exact."""
    return name in VOCABULARY_TABLES and tensor.is_floating_point() and tensor.element_size() > ROUNDED_TO.itemsize


def compress(base_state: StateDict, tuned_state: StateDict, codec_name: str = "bitdelta") -> Delta:
    """The delta that turns base into (nearly) tuned. Raises DeltaError unless both have the same finite tensors."""
    codec = find_codec(codec_name)
    _check_same_tensors(base_state, tuned_state)
    encoded: dict[str, Encoded] = {}
    rounded: dict[str, Tensor] = {}
    whole: dict[str, Tensor] = {}
    for name in sorted(tuned_state):
        base, tuned = (state[name].detach().cpu() for state in (base_state, tuned_state))
        _check_finite(name, tuned)
        if _same_bits(base, tuned):
            continue
        if is_encodable(name, tuned):
            encoded[name] = Encoded(tuple(tuned.shape), codec.encode(tuned.float() - base.float()))
        elif is_roundable(name, tuned):
            rounded[name] = (tuned - base).to(ROUNDED_TO)
        else:
            whole[name] = tuned.clone()
    return Delta(codec.name, codec.version, weights_digest(base_state), weights_digest(tuned_state), encoded, rounded, whole)


def decode(delta: Delta, base_state: StateDict) -> dict[str, Tensor]:
    """The state dict of base + delta, in the base's types, on the CPU.

    Raises DeltaError for another base, or for parts that do not fit it.
    """
    check_delta(delta)
    digest = weights_digest(base_state)
    if digest != delta.base_digest:
        raise DeltaError(
            "the delta was made for another base",
            where=f"base {digest[:16]}, the delta wants {delta.base_digest[:16]}",
            fix="Give the base that the fine-tune started from.",
        )
    _check_fits(delta, base_state)
    return {name: rebuild(delta, name, tensor.detach().cpu()) for name, tensor in base_state.items()}


def rebuild(delta: Delta, name: str, base: Tensor) -> Tensor:
    """One tensor of base + delta; a tensor that the delta does not name is the base's own."""
    if name in delta.whole:
        return delta.whole[name]
    if name in delta.rounded:
        return base + delta.rounded[name].to(base.dtype)
    if name not in delta.encoded:
        return base
    matrix = delta.encoded[name]
    difference = find_codec(delta.codec, delta.version).decode(matrix.parts, matrix.shape)
    return (base.float() + difference).to(base.dtype)


def check_delta(delta: Delta) -> None:
    """Raise DeltaError unless every part has the type, shape and finite values that its codec promises."""
    codec = find_codec(delta.codec, delta.version)
    for name, matrix in delta.encoded.items():
        if problem := codec.check(matrix.parts, matrix.shape):
            raise _damaged(f"{name} {problem}", "a matrix of the delta")
    for name, tensor in delta.rounded.items():
        if tensor.dtype != ROUNDED_TO:
            raise _damaged(f"{name} has a difference in {tensor.dtype} instead of {ROUNDED_TO}", "a table of the delta")
    for name, tensor in (delta.rounded | delta.whole).items():
        _check_finite(name, tensor)


def _check_fits(delta: Delta, base_state: StateDict) -> None:
    for name, shape in [(n, part.shape) for n, part in (delta.encoded | delta.rounded | delta.whole).items()]:
        if name not in base_state:
            raise _damaged(f"the base has no tensor {name}", "a tensor of the delta")
        if tuple(base_state[name].shape) != tuple(shape):
            raise _damaged(f"{name} is {tuple(shape)} in the delta and {tuple(base_state[name].shape)} in the base", "its shape")


def _check_same_tensors(base_state: StateDict, tuned_state: StateDict) -> None:
    for name in sorted(base_state.keys() | tuned_state.keys()):
        kinds = [f"{s[name].dtype} {tuple(s[name].shape)}" if name in s else "missing" for s in (base_state, tuned_state)]
        if kinds[0] != kinds[1]:
            raise DeltaError(
                "base and fine-tune are not models of the same shape",
                where=f"{name}: {kinds[0]} in the base, {kinds[1]} in the fine-tune",
                fix="Give the base that the fine-tune started from.",
            )


def _check_finite(name: str, tensor: Tensor) -> None:
    if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
        raise _damaged(f"{name} holds a value that is not finite", "its values")


def _same_bits(a: Tensor, b: Tensor) -> bool:
    # as bytes: 0.0 == -0.0, and the promise is bit for bit
    return torch.equal(a.contiguous().flatten().view(torch.uint8), b.contiguous().flatten().view(torch.uint8))


def _damaged(what: str, where: str) -> DeltaError:
    return DeltaError(what, where=where, fix="Deploy the run again from sound weights.")
