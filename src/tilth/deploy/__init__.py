"""A fine-tune as one bit per weight over its base: encode, distil the scales, write one checked file, apply, verify.

    codec         what a delta is, which tensors are encoded, the registry of codecs
    signs         the BitDelta code: packed signs and one scale per matrix
    delta_file    delta/1: one safetensors file that refuses damage and any other base
    distill       trains the scales, and nothing else, against the fine-tune's logits
    verification  losses and logit errors of the delta as it lies on disk, and its size
    release       deploy(): all of it, from two model folders to delta.safetensors and delta.json

A delta suits a full fine-tune. Embedding and head travel as 16-bit differences where they changed, so with a
large vocabulary they are still most of the file; norms, convolutions and other vectors travel whole.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tilth.deploy.delta_file import apply_delta, load_delta
    from tilth.deploy.release import deploy
    from tilth.deploy.verification import Verification, verify

__all__ = ["Verification", "apply_delta", "deploy", "load_delta", "verify"]

_HOMES = {
    "Verification": "verification",
    "apply_delta": "delta_file",
    "deploy": "release",
    "load_delta": "delta_file",
    "verify": "verification",
}


def __getattr__(name: str) -> Any:
    # torch is imported on first use: `tilth --help` must not wait for it
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
