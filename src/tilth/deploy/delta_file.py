"""delta/1: a delta as one safetensors file that is the same bytes every time, and that refuses damage and any other base.

Tensors: `<weight>:signs` and `<weight>:scale` (the parts of the codec), `<weight>:difference` (bf16) and
`<weight>:whole`. Metadata:
contract, codec, version, base_digest and tuned_digest (weights_digest of the two models), shapes
(JSON, weight -> [N, K]), checksums (JSON, tensor -> sha256 of dtype, shape and bytes) and checksum
(sha256 of all the metadata above).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from tilth.artifacts.atomic import write_atomically
from tilth.deploy.codec import Delta, Encoded, Parts, check_delta, decode, find_codec
from tilth.errors import DeltaError
from tilth.models.decoder import Decoder
from tilth.models.weights import load_model, weights_digest

CONTRACT = "delta/1"
DIFFERENCE = "difference"
WHOLE = "whole"
_FIELDS = {"contract", "codec", "version", "base_digest", "tuned_digest", "shapes", "checksums"}


def save_delta(path: Path, delta: Delta, base_digest: str) -> int:
    """Write the delta atomically; returns the size in bytes. Raises DeltaError for a base_digest that is not the delta's."""
    if base_digest != delta.base_digest:
        raise DeltaError(
            "the delta was made for another base than the one it is saved for",
            where=f"base {base_digest[:16]}, the delta was made from {delta.base_digest[:16]}",
            fix="Pass weights_digest of the base that the delta was compressed from.",
        )
    check_delta(delta)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in _named_tensors(delta)}
    metadata = {
        "contract": CONTRACT,
        "codec": delta.codec,
        "version": str(delta.version),
        "base_digest": delta.base_digest,
        "tuned_digest": delta.tuned_digest,
        "shapes": _json({name: matrix.shape for name, matrix in delta.encoded.items()}),
        "checksums": _json({name: _checksum(name, tensor) for name, tensor in tensors.items()}),
    }
    data = _serialise(tensors, metadata | {"checksum": _metadata_checksum(metadata)})
    write_atomically(Path(path), data)
    return len(data)


def load_delta(path: Path) -> Delta:
    """Read and check a whole delta file. Raises DeltaError for a missing, truncated, damaged or unknown one."""
    path = Path(path)
    metadata, tensors = _read(path)
    _check_metadata(path, metadata)
    version, shapes, checksums = _parse(path, metadata)
    find_codec(metadata["codec"], version)
    _check_tensors(path, checksums, tensors)
    parts: dict[str, Parts] = {name: {} for name in shapes}
    rounded: dict[str, Tensor] = {}
    whole: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        weight, _, part = name.rpartition(":")
        if part == WHOLE:
            whole[weight] = tensor
        elif part == DIFFERENCE:
            rounded[weight] = tensor
        elif weight in parts:
            parts[weight][part] = tensor
        else:
            raise _damaged(path, f"it does not say the shape of {weight!r}")
    encoded = {name: Encoded(shape, parts[name]) for name, shape in shapes.items()}
    delta = Delta(metadata["codec"], version, metadata["base_digest"], metadata["tuned_digest"], encoded, rounded, whole)
    check_delta(delta)
    return delta


def apply_delta(path: Path, base_folder: Path) -> Decoder:
    """The fine-tune that the delta stands for: the model of base_folder plus the delta, on the CPU.

    Raises DeltaError when the file is damaged or was made for another base, and what load_model raises.
    """
    delta = load_delta(path)
    model = load_model(Path(base_folder))
    _add(model, delta)
    return model


def _add(model: Decoder, delta: Delta) -> None:
    model.load_state_dict(decode(delta, model.state_dict()))


def _named_tensors(delta: Delta) -> Iterator[tuple[str, Tensor]]:
    for weight, matrix in sorted(delta.encoded.items()):
        for part, tensor in sorted(matrix.parts.items()):
            yield f"{weight}:{part}", tensor
    for weight, tensor in sorted(delta.rounded.items()):
        yield f"{weight}:{DIFFERENCE}", tensor
    for weight, tensor in sorted(delta.whole.items()):
        yield f"{weight}:{WHOLE}", tensor


def _serialise(tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> bytes:
    # safetensors writes the metadata in the order of a randomly seeded hash map: the header is
    # written again in order, so that equal deltas are equal bytes
    data = save(dict(tensors), metadata)
    n_header = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + n_header])
    header["__metadata__"] = metadata
    text = _json(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data[8 + n_header :]


def _read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    if not path.is_file():
        raise DeltaError("there is no delta file", where=str(path), fix="Deploy the run first, or correct the path.")
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}, {name: file.get_tensor(name) for name in sorted(file.keys())}
    except SafetensorError as error:
        raise _damaged(path, str(error)) from error


def _check_metadata(path: Path, metadata: Mapping[str, str]) -> None:
    if metadata.get("contract") != CONTRACT:
        raise DeltaError(
            f"this is not a file of the contract {CONTRACT}",
            where=f"{path}, contract {metadata.get('contract')}",
            fix="Give a delta.safetensors that `tilth deploy` wrote.",
        )
    promised = {name: value for name, value in metadata.items() if name != "checksum"}
    if promised.keys() != _FIELDS or metadata.get("checksum") != _metadata_checksum(promised):
        raise _damaged(path, "its metadata does not have its own checksum")


def _parse(path: Path, metadata: Mapping[str, str]) -> tuple[int, dict[str, tuple[int, int]], dict[str, str]]:
    try:
        shapes = {str(name): (int(n), int(k)) for name, (n, k) in json.loads(metadata["shapes"]).items()}
        return int(metadata["version"]), shapes, dict(json.loads(metadata["checksums"]))
    except (ValueError, TypeError, AttributeError) as error:
        raise _damaged(path, f"its metadata cannot be read ({error})") from error


def _check_tensors(path: Path, checksums: Mapping[str, str], tensors: Mapping[str, Tensor]) -> None:
    if checksums.keys() != tensors.keys():
        names = ", ".join(sorted(checksums.keys() ^ tensors.keys())[:3])
        raise _damaged(path, f"tensors are missing or were added: {names}")
    for name, tensor in tensors.items():
        if _checksum(name, tensor) != checksums[name]:
            raise _damaged(path, f"{name} does not have its checksum")


def _checksum(name: str, tensor: Tensor) -> str:
    # 64 bits of sha256: enough against damage, and the list of them stays small beside one-bit weights
    return weights_digest({name: tensor})[:16]


def _metadata_checksum(metadata: Mapping[str, str]) -> str:
    return hashlib.sha256(_json(dict(metadata)).encode()).hexdigest()


def _json(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _damaged(path: Path, problem: str) -> DeltaError:
    return DeltaError(f"the delta file is damaged: {problem}", where=str(path), fix="Copy it again, or deploy the run again.")
