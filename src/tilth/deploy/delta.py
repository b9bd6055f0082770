"""What a delta is: of each tensor that a fine-tune changed, the parts of a codec. What it does not name is the base's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tilth.deploy.choice import Choice, kind_of
from tilth.deploy.codecs import MatrixCodec, Parts, Shape, find_codec
from tilth.deploy.codecs.codec import is_finite
from tilth.errors import DeltaError
from tilth.models.weights import weights_digest

StateDict = Mapping[str, Tensor]


@dataclass(frozen=True)
class Encoded:
    """The change of one tensor: the shape and type that it has in base and fine-tune, and the parts of a codec.

    dtype None = not said: delta/1 left the type of a matrix to the base.
    """

    codec: str
    shape: Shape
    dtype: torch.dtype | None
    parts: Parts

    @property
    def n_bytes(self) -> int:
        """Bytes of the parts."""
        return sum(part.numel() * part.element_size() for part in self.parts.values())


@dataclass(frozen=True)
class Delta:
    """tuned - base, for the two models whose weights_digest it names."""

    base_digest: str
    tuned_digest: str
    encoded: dict[str, Encoded] = field(default_factory=dict)

    def of_kind(self, kind: str) -> dict[str, Encoded]:
        """What is encoded of the "matrices" of the blocks, of the "tables" of the vocabulary, or of all "other" tensors."""
        return {name: own for name, own in self.encoded.items() if kind_of(name, own.shape) == kind}

    def tensors(self) -> dict[str, Tensor]:
        """All parts, as `<tensor>:<part>`, in the order of names."""
        named = {f"{name}:{part}": tensor for name, own in self.encoded.items() for part, tensor in own.parts.items()}
        return dict(sorted(named.items()))


def compress(base_state: StateDict, tuned_state: StateDict, choice: Choice | None = None) -> Delta:
    """The delta that turns base into (nearly) tuned, each tensor by the codec of `choice`.

    Holds one tensor of each at a time, so that the two may be read from disk as they are asked for. Raises DeltaError unless
    both have the same finite tensors, and each of the choice's patterns is that of a matrix.
    """
    choice = choice or Choice()
    _check_same_names(base_state, tuned_state)
    sizes = {name: t.numel() for name, t in tuned_state.items() if kind_of(name, tuple(t.shape)) == "matrices"}
    choice.check_patterns(sizes)
    encoded: dict[str, Encoded] = {}
    for name in sorted(tuned_state):
        base, tuned = (state[name].detach().cpu().contiguous() for state in (base_state, tuned_state))
        _check_same_tensors(name, base, tuned)
        if same_bits(base, tuned):
            continue
        codec, parts = choice.encode(name, base, tuned, sum(sizes.values()))
        encoded[name] = Encoded(codec.name, tuple(tuned.shape), tuned.dtype, parts)
    delta = Delta(weights_digest(base_state), weights_digest(tuned_state), encoded)
    check_delta(delta)
    return delta


def decode(delta: Delta, base_state: StateDict) -> dict[str, Tensor]:
    """The state dict of base + delta, in the base's types, on the CPU.

    Raises DeltaError for another base, or for parts that do not fit it.
    """
    check_delta(delta)
    check_base(delta, weights_digest(base_state))
    check_fits(delta, base_state)
    return {name: rebuild(delta, name, tensor.detach().cpu()) for name, tensor in base_state.items()}


@torch.no_grad()
def add_in_place(delta: Delta, state: StateDict) -> None:
    """Make the base's tensors those of base + delta, one after the other: no second model is held. Raises what decode does."""
    check_base(delta, weights_digest(state))
    check_fits(delta, state)
    for name in delta.encoded:
        state[name].copy_(rebuild(delta, name, state[name]))


def rebuild(delta: Delta, name: str, base: Tensor) -> Tensor:
    """One tensor of base + delta; a tensor that the delta does not name is the base's own."""
    if name not in delta.encoded:
        return base
    own = delta.encoded[name]
    return find_codec(own.codec).rebuild(own.parts, base)


def check_delta(delta: Delta) -> None:
    """Raise DeltaError unless every part has the type, shape and finite values that its codec promises."""
    for name, own in delta.encoded.items():
        codec = find_codec(own.codec)
        if own.dtype is None and not isinstance(codec, MatrixCodec):
            raise _damaged(f"{name} does not say its type", f"codec {own.codec}")
        if problem := codec.check(own.parts, own.shape, own.dtype or torch.float32):
            raise _damaged(f"{name} {problem}", f"codec {own.codec}")


def check_base(delta: Delta, base_digest: str) -> None:
    """Raise DeltaError unless base_digest is that of the delta's base."""
    if base_digest != delta.base_digest:
        raise DeltaError(
            "the delta was made for another base",
            where=f"base {base_digest[:16]}, the delta wants {delta.base_digest[:16]}",
            fix="Give the base that the fine-tune started from.",
        )


def check_fits(delta: Delta, base_state: StateDict) -> None:
    """Raise DeltaError unless the base has every tensor of the delta in its shape and type."""
    for name, own in delta.encoded.items():
        if name not in base_state:
            raise _damaged(f"the base has no tensor {name}", "a tensor of the delta")
        found = base_state[name]
        dtype = own.dtype or found.dtype
        if (tuple(found.shape), found.dtype) != (tuple(own.shape), dtype):
            kinds = [f"{d} {tuple(shape)}" for d, shape in ((dtype, own.shape), (found.dtype, found.shape))]
            raise _damaged(f"{name} is {kinds[0]} in the delta and {kinds[1]} in the base", "its shape and type")


def same_bits(a: Tensor, b: Tensor) -> bool:
    """True where two contiguous tensors of one type and shape are the same bytes: 0.0 == -0.0, and the promise is bit for bit."""
    return torch.equal(a.flatten().view(torch.uint8), b.flatten().view(torch.uint8))


def _check_same_names(base_state: StateDict, tuned_state: StateDict) -> None:
    if alone := sorted(base_state.keys() ^ tuned_state.keys()):
        kinds = ["there" if alone[0] in state else "missing" for state in (base_state, tuned_state)]
        raise _unlike(alone[0], *kinds)


def _check_same_tensors(name: str, base: Tensor, tuned: Tensor) -> None:
    kinds = [f"{tensor.dtype} {tuple(tensor.shape)}" for tensor in (base, tuned)]
    if kinds[0] != kinds[1]:
        raise _unlike(name, *kinds)
    if not is_finite(tuned):
        raise _damaged(f"{name} holds a value that is not finite", "its values")


def _unlike(name: str, in_base: str, in_tuned: str) -> DeltaError:
    return DeltaError(
        "base and fine-tune are not models of the same shape",
        where=f"{name}: {in_base} in the base, {in_tuned} in the fine-tune",
        fix="Give the base that the fine-tune started from.",
    )


def _damaged(what: str, where: str) -> DeltaError:
    return DeltaError(what, where=where, fix="Deploy the run again from sound weights.")
