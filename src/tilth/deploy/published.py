"""BitDelta's own files, diff.pt: read without running what they hold, and written for its loader.

The form is that of the repository FasterDecoding/BitDelta: one flat dict, saved by torch.save, of `<layer>.mask` (the packed
signs, int32 (K/32, N)) and `<layer>.coeff` (the scale, one fp32 number) by the names of HF's Llama, and of every other
parameter of the fine-tune whole under its own name. It names no base, so the caller does.
"""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
from torch import Tensor

from tilth.deploy.codecs import Parts, find_codec
from tilth.deploy.delta import Delta, Encoded, check_delta, check_fits, rebuild, same_bits
from tilth.deploy.saved_tensors import SavedTensors
from tilth.deploy.signs import WORD_BITS
from tilth.errors import DeltaError
from tilth.models.convert.hf_llama import LLAMA
from tilth.models.convert.parts import Rule
from tilth.models.weights import load_config, weights_digest

MASK, COEFF = "mask", "coeff"


def read_published(path: Path, base_folder: Path) -> Delta:
    """A diff.pt as a delta over base_folder, which `tilth import-hf` made of the Llama that it was compressed against.

    Several layers that are one matrix here keep their own scales, as scales of its rows. Raises DeltaError for a file that is
    damaged, holds anything but tensors, or does not fit the base.
    """
    tensors = _load(Path(path))
    base_state = SavedTensors(base_folder)
    encoded: dict[str, Encoded] = {}
    used: set[str] = set()
    for rule in LLAMA.rules(load_config(base_folder), {}):
        base = base_state[rule.ours]
        codec, parts, names = _parts(rule, base, tensors)
        used |= names
        if parts:
            encoded[rule.ours] = Encoded(codec, tuple(base.shape), base.dtype, parts)
    if unknown := sorted(tensors.keys() - used):
        raise _refused(path, f"it has {unknown[0]}, which is nothing of this base")
    delta = Delta(weights_digest(base_state), weights_digest(tensors), encoded)
    check_delta(delta)
    check_fits(delta, base_state)
    return delta


def write_published(path: Path, delta: Delta, base_folder: Path) -> None:
    """Write a delta whose matrices are all BitDelta's as its own loader reads them. Raises DeltaError for one of other codecs."""
    base_state = SavedTensors(base_folder)
    check_fits(delta, base_state)
    tensors: dict[str, Tensor] = {}
    for rule in LLAMA.rules(load_config(base_folder), {}):
        own = delta.encoded.get(rule.ours)
        if rule.ours not in delta.of_kind("matrices"):
            values = rule.write(rebuild(delta, rule.ours, base_state[rule.ours]))
            tensors |= {name: value.contiguous() for name, value in zip(rule.theirs, values, strict=True)}
            continue
        assert own is not None
        if own.codec != "bitdelta" or own.shape[1] % WORD_BITS:
            raise _refused(path, f"{rule.ours} is {own.codec} of {own.shape[1]} inputs, not BitDelta's with whole words")
        # the outputs lie last in the packed signs, and first in the matrix
        masks = rule.write(own.parts["signs"].T)
        for name, mask in zip(rule.theirs, masks, strict=True):
            layer = name.removesuffix(".weight")
            tensors |= {f"{layer}.{MASK}": mask.T.contiguous(), f"{layer}.{COEFF}": own.parts["scale"].clone()}
    torch.save(tensors, path)


def _parts(rule: Rule, base: Tensor, tensors: dict[str, Tensor]) -> tuple[str, Parts, set[str]]:
    """The codec and the parts of one of our tensors, and the names that they come from."""
    layers = [name.removesuffix(".weight") for name in rule.theirs]
    names = {f"{layer}.{part}" for layer in layers for part in (MASK, COEFF)}
    if names <= tensors.keys():
        masks, coeffs = ([tensors[f"{layer}.{part}"] for layer in layers] for part in (MASK, COEFF))
        if any(mask.ndim != 2 or mask.dtype != torch.int32 for mask in masks) or any(c.numel() != 1 for c in coeffs):
            raise DeltaError("the mask of a layer is no packed signs, or its coefficient no number", rule.theirs[0])
        signs = torch.cat(masks, 1)
        if len(layers) == 1:
            return "bitdelta", {"signs": signs, "scale": coeffs[0].float().reshape(())}, names
        row_scale = torch.cat([c.float().reshape(1).expand(m.shape[1]) for c, m in zip(coeffs, masks, strict=True)])
        ones = torch.ones(base.shape[1])
        return "rank1", {"signs": signs, "scale": torch.ones(()), "row_scale": row_scale, "column_scale": ones}, names
    found = set(rule.theirs)
    if not found <= tensors.keys():
        return "whole", {}, set()
    try:
        values = rule.read(*(tensors[name] for name in rule.theirs)).to(base.dtype).contiguous()
    except RuntimeError as error:
        raise DeltaError(f"a tensor does not have its shape ({error})", rule.theirs[0]) from error
    is_same = values.shape == base.shape and same_bits(values, base.contiguous())
    return "whole", {} if is_same else find_codec("whole").encode(base, values), found


def _load(path: Path) -> dict[str, Tensor]:
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise _refused(path, f"it cannot be read, or holds more than tensors ({type(error).__name__})") from error
    if not isinstance(found, dict) or not all(isinstance(n, str) and isinstance(t, Tensor) for n, t in found.items()):
        raise _refused(path, "it is no flat dict of tensors")
    return found


def _refused(path: Path, what: str) -> DeltaError:
    return DeltaError(f"the file is no delta of BitDelta: {what}", str(path), "Give the diff.pt of a Llama, and its base.")
