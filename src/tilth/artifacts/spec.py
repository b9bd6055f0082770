"""What makes an output: its key, and the difference between two of them in words."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

UNICODE = "unicode"


@dataclass(frozen=True)
class Spec:
    """Everything that an output depends on. Logical names only: a path never enters a key."""

    step: str
    version: int
    params: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, str] = field(default_factory=dict)  # logical name -> digest of what was really produced
    libraries: Mapping[str, str] = field(default_factory=dict)  # distribution -> version
    shard: str | None = None

    @property
    def key(self) -> str:
        """Hash of this spec: 32 hexadecimal digits (128 bits)."""
        return hashlib.sha256(canonical_json(asdict(self))).hexdigest()[:32]

    @staticmethod
    def from_dict(fields: Mapping[str, Any]) -> Spec:
        """Read back what a manifest holds."""
        return Spec(**fields)


def canonical_json(value: Any) -> bytes:
    """JSON with sorted keys and no spaces: equal values give equal bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def library_versions(names: tuple[str, ...]) -> dict[str, str]:
    """Installed versions of the distributions whose behaviour a step's output depends on; `unicode` is Python's Unicode data."""
    found = {}
    for name in names:
        if name == UNICODE:
            found[name] = unicodedata.unidata_version
            continue
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def difference(old: Spec | None, new: Spec) -> str:
    """Say in one line why `new` is not `old`: `threshold 0.7 -> 0.8`, `input changed: web/00000`."""
    if old is None:
        return "new"
    reasons = []
    if old.version != new.version:
        reasons.append(f"step version {old.version} -> {new.version}")
    reasons += _changed(old.params, new.params)
    reasons += [f"library {line}" for line in _changed(old.libraries, new.libraries)]
    inputs = sorted(name for name in {*old.inputs, *new.inputs} if old.inputs.get(name) != new.inputs.get(name))
    if inputs:
        more = f" and {len(inputs) - 2} more" if len(inputs) > 2 else ""
        reasons.append(f"input changed: {', '.join(inputs[:2])}{more}")
    return "; ".join(reasons) or "unchanged"


def _changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    lines = []
    for name in sorted({*old, *new}):
        before, after = old.get(name), new.get(name)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            lines += [f"{name}.{line}" for line in _changed(before, after)]
        elif before != after:
            lines.append(f"{name} {_short(before)} -> {_short(after)}")
    return lines


def _short(value: Any) -> str:
    text = json.dumps(value, sort_keys=True) if not isinstance(value, str) else value
    return text if len(text) <= 40 else text[:37] + "..."
