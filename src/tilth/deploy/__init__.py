"""A fine-tune as its difference from a base: encode, distil the scales, write one checked file, verify, serve.

delta         what a delta is: of each changed tensor, the parts of a codec
codecs/       the codecs, one a file: one-bit, residual, low-rank, LoRA, rows of tables, whole
choice        which codec each tensor gets
delta_file    delta/2: one safetensors file that refuses damage and any other base; delta_file_1 reads the older form
teacher       what the fine-tune said of some sequences; overlay: a base that computes as base + delta
distill       trains the scales, and nothing else, against the fine-tune's logits
verification  losses, logit errors and scores of the delta as it lies on disk, and its size; task: prompts with answers
acceptance    refuses what loses more than the user allows
release       deploy(): all of it, from two model folders to delta.safetensors and delta.json
tenant        a delta as the pass over many tenants uses it; store: from disk to memory, by least recent use
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tilth.deploy.choice import Choice, parse_choice
    from tilth.deploy.delta_file import apply_delta, load_delta
    from tilth.deploy.release import deploy
    from tilth.deploy.store import DeltaStore
    from tilth.deploy.tenant import tenant_weights
    from tilth.deploy.verification import Verification, verify

__all__ = [
    "Choice",
    "DeltaStore",
    "Verification",
    "apply_delta",
    "deploy",
    "load_delta",
    "parse_choice",
    "tenant_weights",
    "verify",
]

_HOMES = {
    "Choice": "choice",
    "DeltaStore": "store",
    "Verification": "verification",
    "apply_delta": "delta_file",
    "deploy": "release",
    "load_delta": "delta_file",
    "parse_choice": "choice",
    "tenant_weights": "tenant",
    "verify": "verification",
}


def __getattr__(name: str) -> Any:
    # torch is imported on first use: `tilth --help` must not wait for it
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
