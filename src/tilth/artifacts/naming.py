"""Names for artifacts: `corpus/demo`, `subset/clean`. A name is a small JSON file that lists keys and is switched atomically."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tilth.artifacts.atomic import write_atomically
from tilth.artifacts.spec import canonical_json
from tilth.errors import NotFoundError, RecipeError, StoreError, did_you_mean

KINDS = ("corpus", "subset", "tokens", "run", "delta", "replay", "evaluation")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")


@dataclass(frozen=True)
class Part:
    """One artifact of a named thing: which step made it, of which shard."""

    step: str
    shard: str | None
    key: str
    digest: str


@dataclass(frozen=True)
class Named:
    """A name and the artifacts that it stands for."""

    kind: str
    name: str
    parts: tuple[Part, ...]
    meta: dict[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """`corpus/demo@1a2b3c4d`."""
        return f"{self.kind}/{self.name}@{self.digest[:8]}"

    @property
    def digest(self) -> str:
        """Hash over what every part really contains."""
        return hashlib.sha256(canonical_json([asdict(part) for part in self.parts])).hexdigest()[:32]

    def of(self, step: str) -> list[Part]:
        """The parts that `step` made, in order of shard."""
        return sorted((part for part in self.parts if part.step == step), key=lambda part: part.shard or "")

    def one(self, step: str) -> Part:
        """The only part that `step` made; NotFoundError where there is none."""
        found = self.of(step)
        if not found:
            raise NotFoundError(f"{self.kind} `{self.name}` has no `{step}`", fix=f"Steps in it: {', '.join(self.steps())}.")
        return found[0]

    def steps(self) -> list[str]:
        """Names of the steps, in the order in which they first appear."""
        return list(dict.fromkeys(part.step for part in self.parts))


def check_name(name: str) -> None:
    """Names become SQL identifiers and file names: letters, digits, `_` and `-`, first a letter."""
    if not _NAME.fullmatch(name):
        raise RecipeError(
            f"`{name}` cannot be a name",
            where=f"a name of {len(name)} characters" if len(name) > 64 else name,
            fix="Use letters, digits, `_` and `-`, beginning with a letter (at most 64).",
        )


def save(folder: Path, named: Named) -> None:
    """Switch the name to `named`, atomically."""
    check_name(named.name)
    path = folder / named.kind / f"{named.name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    body = {"kind": named.kind, "name": named.name, "meta": named.meta, "parts": [asdict(part) for part in named.parts]}
    write_atomically(path, json.dumps(body, indent=1, sort_keys=True).encode())


def load(folder: Path, kind: str, name: str) -> Named:
    """Read a name; NotFoundError with the nearest one where there is none, StoreError where its file is damaged."""
    path = folder / kind / f"{name}.json"
    try:
        body = json.loads(path.read_bytes())
        return Named(body["kind"], body["name"], tuple(Part(**part) for part in body["parts"]), body["meta"])
    except FileNotFoundError:
        raise NotFoundError(f"there is no {kind} `{name}`", str(folder / kind), did_you_mean(name, names(folder, kind))) from None
    except (ValueError, KeyError, TypeError):
        fix = f"Remove this file and make the {kind} again; what it stood for is still in the store."
        raise StoreError(f"the name `{kind}/{name}` is damaged", str(path), fix) from None


def remove(folder: Path, kind: str, name: str) -> None:
    """Remove a name, if it is there."""
    (folder / kind / f"{name}.json").unlink(missing_ok=True)


def load_all(folder: Path, kind: str) -> Iterable[Named]:
    """All names of one kind, sorted."""
    return [load(folder, kind, name) for name in names(folder, kind)]


def names(folder: Path, kind: str) -> list[str]:
    """The names of one kind, sorted."""
    here = folder / kind
    return sorted(entry[:-5] for entry in os.listdir(here) if entry.endswith(".json")) if here.is_dir() else []
