"""delta/1, which Tilth wrote before one delta could mix codecs: read, and no longer written.

Tensors: `<weight>:signs` and `<weight>:scale`, `<weight>:difference` (bf16, of a whole table) and `<weight>:whole`. Metadata:
contract, codec (bitdelta) and version, base_digest and tuned_digest, shapes (JSON, weight -> [N, K]), checksums and checksum.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tilth.deploy.codecs import find_codec
from tilth.deploy.delta import Delta, Encoded

CONTRACT = "delta/1"
FIELDS = {"contract", "codec", "version", "base_digest", "tuned_digest", "shapes", "checksums"}


def make_delta(metadata: Mapping[str, str], parsed: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Delta:
    """The same delta as delta/2 has it. Raises ValueError for tensors that the shapes do not name."""
    codec = find_codec(metadata["codec"], int(metadata["version"]))
    encoded = {name: Encoded(codec.name, (int(n), int(k)), None, {}) for name, (n, k) in parsed["shapes"].items()}
    for part_name, tensor in tensors.items():
        name, _, part = part_name.rpartition(":")
        if part == "whole":
            encoded[name] = Encoded("whole", tuple(tensor.shape), tensor.dtype, {"values": tensor})
        elif part == "difference":
            rows_R = (tensor != 0).any(1).nonzero().squeeze(1)
            parts = {"rows": rows_R.int(), "difference": tensor[rows_R]}
            # only tables of fp32 were kept as differences
            encoded |= {name: Encoded("rows", tuple(tensor.shape), torch.float32, parts)} if len(rows_R) else {}
        elif name in encoded:
            encoded[name].parts[part] = tensor
        else:
            raise ValueError(f"it does not say the shape of {name!r}")
    return Delta(metadata["base_digest"], metadata["tuned_digest"], encoded)
