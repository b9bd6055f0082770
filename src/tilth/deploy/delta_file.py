"""delta/2: a delta as one safetensors file that is the same bytes every time, and that refuses damage and any other base.

Tensors: `<tensor>:<part>`, the parts of each tensor's codec. Metadata:
contract, base_digest and tuned_digest (weights_digest of the two models), codecs (JSON, codec -> version), tensors (JSON,
tensor -> [codec, dtype, shape] in base and fine-tune), checksums (JSON, part -> sha256 of dtype, shape and bytes) and checksum
(sha256 of all the metadata above). delta/1 is read as well.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from tilth.artifacts.atomic import written_atomically
from tilth.deploy import delta_file_1
from tilth.deploy.codecs import find_codec
from tilth.deploy.delta import Delta, Encoded, add_in_place, check_delta
from tilth.errors import DeltaError
from tilth.models.decoder import Decoder
from tilth.models.weights import load_model, weights_digest

CONTRACT = "delta/2"
# of a 70B model's delta the header is under 1 MB; safetensors itself would read 100 MB before it knows what they are
MAX_HEADER_BYTES = 16 << 20
_FIELDS = {"contract", "base_digest", "tuned_digest", "codecs", "tensors", "checksums"}
# 64 bits of sha256: enough against damage, and the list of them stays small beside one-bit weights
_CHECKSUM_DIGITS = 16
_NAME = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*")
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_WORDS = {dtype: word for word, dtype in _DTYPES.items()}


def save_delta(path: Path, delta: Delta, base_digest: str) -> int:
    """Write the delta atomically, tensor by tensor; returns the size in bytes.

    Raises DeltaError for a base_digest that is not the delta's, or for parts that load_delta would refuse.
    """
    path = Path(path)
    if base_digest != delta.base_digest:
        raise DeltaError(
            "the delta was made for another base than the one it is saved for",
            where=f"base {base_digest[:16]}, the delta was made from {delta.base_digest[:16]}",
            fix="Pass weights_digest of the base that the delta was compressed from.",
        )
    check_delta(delta)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in delta.tensors().items()}
    with written_atomically(path) as file:
        file.write(_header(delta, {name: _checksum(name, tensor) for name, tensor in tensors.items()}))
        for name in _order(tensors):
            file.write(tensors[name].reshape(-1).view(torch.uint8).numpy().data)
        return file.tell()


def file_bytes(delta: Delta) -> int:
    """The size of the file of a delta, header and all, of which only shapes and types are looked at (meta tensors do)."""
    tensors = delta.tensors()
    header = _header(delta, dict.fromkeys(tensors, "0" * _CHECKSUM_DIGITS))
    return len(header) + sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def load_delta(path: Path) -> Delta:
    """Read and check a whole delta file. Raises DeltaError for a missing, truncated, damaged or unknown one."""
    path = Path(path)
    metadata = _read_metadata(path)
    contract = metadata.get("contract")
    if contract not in (CONTRACT, delta_file_1.CONTRACT):
        raise DeltaError(
            f"this is not a file of the contract {CONTRACT}",
            where=f"{path}, contract {contract}",
            fix="Give a delta.safetensors that `tilth deploy` wrote.",
        )
    fields = _FIELDS if contract == CONTRACT else delta_file_1.FIELDS
    promised = {name: value for name, value in metadata.items() if name != "checksum"}
    if promised.keys() != fields or metadata.get("checksum") != _metadata_checksum(promised):
        raise _damaged(path, "its metadata does not have its own checksum")
    try:
        parsed = {name: _strict_json(metadata[name]) for name in fields & {"codecs", "tensors", "shapes", "checksums"}}
        make = _delta if contract == CONTRACT else delta_file_1.make_delta
        delta = make(metadata, parsed, _read_tensors(path, parsed["checksums"]))
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise _damaged(path, f"its metadata cannot be read ({error})") from error
    check_delta(delta)
    return delta


def apply_delta(path: Path, base_folder: Path) -> Decoder:
    """The fine-tune that the delta stands for: the model of base_folder plus the delta, on the CPU.

    Raises DeltaError when the file is damaged or was made for another base, and what load_model raises.
    """
    delta = load_delta(path)
    model = load_model(Path(base_folder))
    add_in_place(delta, model.state_dict())
    return model


def _order(tensors: Mapping[str, Tensor]) -> list[str]:
    # wide types first: each tensor then starts at a multiple of its own size
    return sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))


def _header(delta: Delta, checksums: Mapping[str, str]) -> bytes:
    """What stands before the tensors, written here and not by safetensors.

    The library writes the metadata in the order of a randomly seeded hash map; here equal deltas are equal bytes.
    """
    tensors, start = delta.tensors(), 0
    header: dict[str, Any] = {"__metadata__": _metadata(delta, checksums)}
    for name in _order(tensors):
        end = start + tensors[name].numel() * tensors[name].element_size()
        header[name] = {"data_offsets": [start, end], "dtype": _WORDS[tensors[name].dtype], "shape": list(tensors[name].shape)}
        start = end
    text = _json(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _metadata(delta: Delta, checksums: Mapping[str, str]) -> dict[str, str]:
    metadata = {
        "contract": CONTRACT,
        "base_digest": delta.base_digest,
        "tuned_digest": delta.tuned_digest,
        "codecs": _json({own.codec: find_codec(own.codec).version for own in delta.encoded.values()}),
        "tensors": _json({name: [own.codec, own.dtype and _WORDS[own.dtype], own.shape] for name, own in delta.encoded.items()}),
        "checksums": _json(dict(checksums)),
    }
    return metadata | {"checksum": _metadata_checksum(metadata)}


def _delta(metadata: Mapping[str, str], parsed: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Delta:
    for codec, version in parsed["codecs"].items():
        find_codec(codec, version)
    encoded: dict[str, Encoded] = {}
    for name, (codec, dtype, shape) in parsed["tensors"].items():
        if codec not in parsed["codecs"]:
            raise ValueError(f"{name} has a codec without a version")
        encoded[name] = Encoded(codec, tuple(int(n) for n in shape), dtype and _DTYPES[dtype], {})
    for part_name, tensor in tensors.items():
        name, _, part = part_name.rpartition(":")
        if name not in encoded:
            raise ValueError(f"it does not say the shape of {name!r}")
        encoded[name].parts[part] = tensor
    return Delta(metadata["base_digest"], metadata["tuned_digest"], encoded)


def _read_metadata(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file whose header is small, says each thing once, and names no path."""
    if not path.is_file():
        raise DeltaError("there is no delta file", where=str(path), fix="Deploy the run first, or correct the path.")
    with open(path, "rb") as file:
        n_bytes = int.from_bytes(file.read(8), "little")
        if n_bytes > MAX_HEADER_BYTES:
            raise _damaged(path, f"its header has {n_bytes:,} bytes, and at most {MAX_HEADER_BYTES:,} are read")
        text = file.read(n_bytes)
    try:
        header = _strict_json(text)
        metadata: dict[str, str] = header.get("__metadata__", {})
    except (ValueError, AttributeError) as error:
        raise _damaged(path, f"its header cannot be read ({error})") from error
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _damaged(path, "its metadata are no words")
    for name in header.keys() - {"__metadata__"}:
        if not all(_NAME.fullmatch(part) for part in name.split(":", 1)):
            raise _damaged(path, f"{name!r} is no name of a tensor")
    return metadata


def _read_tensors(path: Path, checksums: Mapping[str, str]) -> dict[str, Tensor]:
    """Each tensor copied once, out of the file's pages, and compared with its checksum."""
    try:
        with safe_open(path, framework="pt") as file:
            names = sorted(file.keys())
            if names != sorted(checksums):
                odd = ", ".join(sorted(set(names) ^ set(checksums))[:3])
                raise _damaged(path, f"tensors are missing or were added: {odd}")
            tensors = {name: file.get_tensor(name).clone() for name in names}
    except SafetensorError as error:
        raise _damaged(path, str(error)) from error
    for name, tensor in tensors.items():
        if _checksum(name, tensor) != checksums[name]:
            raise _damaged(path, f"{name} does not have its checksum")
    return tensors


def _strict_json(text: str | bytes) -> Any:
    """JSON without a key that stands twice: readers disagree on which of the two counts. Raises ValueError."""
    try:
        return json.loads(text, object_pairs_hook=_unique)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} stands in it twice")
    return found


def _checksum(name: str, tensor: Tensor) -> str:
    return weights_digest({name: tensor})[:_CHECKSUM_DIGITS]


def _metadata_checksum(metadata: Mapping[str, str]) -> str:
    return hashlib.sha256(_json(dict(metadata)).encode()).hexdigest()


def _json(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _damaged(path: Path, problem: str) -> DeltaError:
    return DeltaError(f"the delta file is damaged: {problem}", where=str(path), fix="Copy it again, or deploy the run again.")
