"""Reads a LoRA adapter that PEFT saved for an HF checkpoint as a delta over the model that was imported from it.

The form is that of PEFT's adapter_model.safetensors and adapter_config.json (github.com/huggingface/peft): of each adapted
layer `base_model.model.<layer>.lora_A.weight` (R, K) and `.lora_B.weight` (N, R), scaled by lora_alpha / R.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from tilth.deploy.codecs import Parts
from tilth.deploy.delta import Delta, Encoded, check_delta
from tilth.deploy.saved_tensors import SavedTensors
from tilth.errors import DeltaError
from tilth.models.convert.hf_llama import LLAMA
from tilth.models.convert.parts import Rule
from tilth.models.weights import load_config, weights_digest

ADAPTER_FILE, ADAPTER_CONFIG = "adapter_model.safetensors", "adapter_config.json"
_PREFIX = "base_model.model."
# settings that make an adapter something else than scale * B @ A, and what they are when they do not
_PLAIN: dict[str, Any] = {
    "peft_type": "LORA",
    "use_dora": False,
    "fan_in_fan_out": False,
    "bias": "none",
    "modules_to_save": None,
    "layers_to_transform": None,
    "alpha_pattern": {},
    "rank_pattern": {},
}


def import_adapter(adapter_folder: Path, base_folder: Path) -> Delta:
    """The adapter as a delta over the model of base_folder, which `tilth import-hf` made of the Llama that it was trained on.

    tuned_digest is a hash of the adapter: there is no whole fine-tune to name. Raises DeltaError for an adapter that is damaged,
    of another kind, or of layers that the base has not.
    """
    adapter_folder, base_folder = Path(adapter_folder), Path(base_folder)
    settings, tensors = _read(adapter_folder)
    base_state = SavedTensors(base_folder)
    encoded: dict[str, Encoded] = {}
    left = set(tensors)
    for rule in LLAMA.rules(load_config(base_folder), {}):
        if rule.ours not in base_state or base_state[rule.ours].ndim != 2:
            continue
        base = base_state[rule.ours]
        parts, used = _bands(rule, base, tensors, settings)
        left -= used
        if parts:
            encoded[rule.ours] = Encoded("lora", tuple(base.shape), base.dtype, parts)
    if left or not encoded:
        odd = sorted(left)[0] if left else "no layer at all"
        raise _refused(adapter_folder, f"the adapter changes {odd}, which is no linear layer of this base")
    words = json.dumps(settings, sort_keys=True) + weights_digest(tensors)
    delta = Delta(weights_digest(base_state), hashlib.sha256(words.encode()).hexdigest(), encoded)
    check_delta(delta)
    return delta


def _bands(rule: Rule, base: Tensor, tensors: Mapping[str, Tensor], settings: Mapping[str, Any]) -> tuple[Parts, set[str]]:
    """The parts of one of our matrices, and the tensors of the adapter that are in them."""
    rows = [len(part) for part in rule.write(base.new_empty(base.shape, device="meta"))]
    parts: Parts = {}
    starts: list[int] = []
    scales: list[float] = []
    used: set[str] = set()
    for i, theirs in enumerate(rule.theirs):
        names = [f"{_PREFIX}{theirs.removesuffix('.weight')}.lora_{letter}.weight" for letter in "AB"]
        if not any(name in tensors for name in names):
            continue
        down, up = (tensors.get(name) for name in names)
        if down is None or up is None or down.ndim != 2 or up.shape != (rows[i], len(down)):
            raise DeltaError("an adapter does not fit its layer", theirs, "Give the base that the adapter was trained on.")
        n = len(starts)
        parts |= {f"up.{n}": up, f"down.{n}": down}
        starts.append(sum(rows[:i]))
        rank = len(down)
        scales.append(settings["lora_alpha"] / (math.sqrt(rank) if settings.get("use_rslora") else rank))
        used |= set(names)
    if parts:
        parts |= {"first_rows": torch.tensor(starts, dtype=torch.int32), "scale": torch.tensor(scales, dtype=torch.float32)}
    return parts, used


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        settings = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
        with safe_open(folder / ADAPTER_FILE, framework="pt") as file:
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except (OSError, ValueError, SafetensorError) as error:
        raise _refused(folder, f"the adapter cannot be read ({error})") from error
    for name, plain in _PLAIN.items():
        if settings.get(name, plain) not in (plain, None):
            raise _refused(folder, f"the adapter has {name} = {settings[name]!r}, and only {plain!r} is read")
    if not isinstance(settings.get("lora_alpha"), int | float):
        raise _refused(folder, "the adapter does not say its lora_alpha")
    return settings, tensors


def _refused(folder: Path, what: str) -> DeltaError:
    return DeltaError(what, str(folder), f"Give a folder with PEFT's {ADAPTER_FILE} and {ADAPTER_CONFIG} of a Llama.")
