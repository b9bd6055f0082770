"""The store: a folder of immutable artifacts, each found by the key of what made it.

<root>/artifacts/<step>/<key>/     manifest.json and the files it names
<root>/names/<kind>/<name>.json    what `corpus/demo` stands for now
<root>/work/<key>/                 a step in progress that can resume (a training run)
<root>/partial/                    outputs being written; whatever a kill leaves here is swept
<root>/catalog/                    the DuckDB projection, see tilth.catalog
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tilth.artifacts import naming
from tilth.artifacts.atomic import disk_errors, is_locked, locked, sync_folder, write_atomically
from tilth.artifacts.naming import Named, Part
from tilth.artifacts.spec import Spec, canonical_json
from tilth.errors import ContractError, NotFoundError, StoreError

MANIFEST = "manifest.json"


def discarded(root: Path) -> Path:
    """Where a store lies while it is removed."""
    return root.with_name(f"{root.name}.old")


@dataclass(frozen=True)
class Artifact:
    """A finished output. `digest` is over the bytes of its files; `stats` are counts that the step reported."""

    path: Path
    spec: Spec
    key: str
    digest: str
    size_bytes: int
    stats: dict[str, Any] = field(default_factory=dict)

    def part(self) -> Part:
        """How a name refers to this artifact."""
        return Part(self.spec.step, self.spec.shard, self.key, self.digest)

    @property
    def store(self) -> Store:
        """The store that it lies in."""
        return Store(self.path.parents[2])


class Store:
    """A folder that holds artifacts and names. Any number of processes may use it at once."""

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root).absolute()

    # -- artifacts ---------------------------------------------------------

    def find(self, spec: Spec) -> Artifact | None:
        """The finished output of `spec`, or None."""
        try:
            return self._load(self._folder(spec))
        except FileNotFoundError:
            return None

    def artifact(self, part: Part) -> Artifact:
        """The output that a name's part refers to; StoreError when it is gone."""
        folder = self.root / "artifacts" / part.step / part.key
        try:
            return self._load(folder)
        except FileNotFoundError:
            raise StoreError(
                f"the output of `{part.step}` for `{part.shard or 'all'}` is gone",
                where=str(folder),
                fix="Build again: it makes only what is missing.",
            ) from None

    def make(self, spec: Spec, write: Callable[[Path], Mapping[str, Any] | None]) -> Artifact:
        """Return the output of `spec`, calling `write(folder)` only if nobody has made it yet.

        Two processes that want the same output wait for each other and make it once. A kill at any
        moment leaves either the whole artifact or nothing but a folder under `partial/`.
        `write` returns counts for the manifest (no times: equal inputs give equal bytes).
        """
        with locked(self.root / "locks" / spec.key):
            done = self.find(spec)
            if done is not None:
                return done
            partial = self.root / "partial" / f"{spec.key}.{uuid.uuid4().hex[:8]}"
            started = time.monotonic()
            with disk_errors(self.root):
                try:
                    partial.mkdir(parents=True)
                    stats = dict(write(partial) or {})
                    made = self._publish(spec, partial, stats)
                finally:
                    shutil.rmtree(partial, ignore_errors=True)
            self.note_time(spec, time.monotonic() - started)
            return made

    def adopt(self, spec: Spec, folder: Path, stats: Mapping[str, Any]) -> Artifact:
        """Publish a folder that was filled elsewhere in the store (`work_folder`), moving it."""
        with locked(self.root / "locks" / spec.key), disk_errors(self.root):
            return self.find(spec) or self._publish(spec, folder, dict(stats))

    def work_folder(self, spec: Spec) -> Path:
        """A folder that stays between attempts at `spec`, for steps that resume by themselves."""
        folder = self.root / "work" / spec.key
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        return folder

    def sweep(self) -> int:
        """Remove what killed processes left half-written; returns how many folders. Running ones are spared."""
        partials = self.root / "partial"
        n_removed = 0
        for name in os.listdir(partials) if partials.is_dir() else []:
            if not is_locked(self.root / "locks" / name.split(".")[0]):
                shutil.rmtree(partials / name, ignore_errors=True)
                n_removed += 1
        return n_removed

    def verify(self, artifact: Artifact) -> None:
        """Raise ContractError when a file of the artifact no longer has the bytes that were published."""
        files = _manifest(artifact.path)["files"]
        for name, entry in files.items():
            path = artifact.path / name
            if not path.is_file() or _file_sha256(path) != entry["sha256"]:
                raise ContractError(
                    "a file is missing or is not what was published",
                    where=str(path),
                    fix=f"Remove {artifact.path} and build again.",
                )

    def discard(self, folder: Path) -> None:
        """Remove one of `folders`, whole: a kill on the way leaves what `sweep` removes, never half an artifact."""
        doomed = self.root / "partial" / f"{folder.name}.{uuid.uuid4().hex[:8]}"
        doomed.parent.mkdir(exist_ok=True)
        folder.rename(doomed)
        shutil.rmtree(doomed)

    def discard_all(self) -> None:
        """Remove the store, whole, and what a kill left of one before it in the same place."""
        doomed = discarded(self.root)
        shutil.rmtree(doomed, ignore_errors=True)
        if self.root.exists():
            self.root.rename(doomed)
            shutil.rmtree(doomed)

    def folders(self) -> list[Path]:
        """The folder of every artifact, sorted by step and key; `load` reads one."""
        return sorted(path for path in (self.root / "artifacts").glob("*/*") if path.is_dir())

    def load(self, folder: Path) -> Artifact:
        """The artifact in one of `folders`. Raises StoreError when its manifest is missing or damaged."""
        try:
            return self._load(folder)
        except FileNotFoundError:
            raise _damaged(folder / MANIFEST) from None

    # -- names ---------------------------------------------------------------

    def save_named(self, kind: str, name: str, parts: Iterable[Part], meta: Mapping[str, Any] | None = None) -> Named:
        """Let `kind/name` stand for `parts` from now on."""
        named = Named(kind, name, tuple(parts), dict(meta or {}))
        with locked(self.root / "locks" / f"name.{kind}.{name}"):
            naming.save(self.root / "names", named)
        return named

    def remove_named(self, kind: str, name: str) -> None:
        """Let `kind/name` stand for nothing; its artifacts stay."""
        with locked(self.root / "locks" / f"name.{kind}.{name}"):
            naming.remove(self.root / "names", kind, name)

    def get_named(self, kind: str, name: str) -> Named:
        """What `kind/name` stands for; NotFoundError with the nearest name otherwise."""
        return naming.load(self.root / "names", kind, name)

    def find_named(self, kind: str, name: str) -> Named | None:
        """As `get_named`, or None."""
        try:
            return self.get_named(kind, name)
        except NotFoundError:
            return None

    def names(self, kind: str) -> list[str]:
        """The words that are names of this kind, sorted; what they stand for is not read."""
        return naming.names(self.root / "names", kind)

    def named(self, kind: str) -> list[Named]:
        """All names of one kind, sorted."""
        return list(naming.load_all(self.root / "names", kind))

    # -- timings: beside the artifacts, never in them -------------------------

    def note_time(self, spec: Spec, seconds: float) -> None:
        """Append how long a step took to `log/seconds.jsonl`; a line is one write, so that writers interleave whole lines."""
        path = self.root / "log" / "seconds.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        line = {
            "step": spec.step,
            "shard": spec.shard,
            "key": spec.key,
            "seconds": round(seconds, 3),
            "at_unix": round(time.time(), 3),
        }
        with disk_errors(path), open(path, "ab") as file:
            file.write(json.dumps(line).encode() + b"\n")

    # -- inside --------------------------------------------------------------

    def _folder(self, spec: Spec) -> Path:
        return self.root / "artifacts" / spec.step / spec.key

    def _publish(self, spec: Spec, partial: Path, stats: dict[str, Any]) -> Artifact:
        files = {
            str(path.relative_to(partial)): {"sha256": _file_sha256(path, sync=True), "size_bytes": path.stat().st_size}
            for path in sorted(partial.rglob("*"))
            if path.is_file() and path.name != MANIFEST
        }
        digest = _digest({name: str(entry["sha256"]) for name, entry in files.items()})
        body = {"contract": "manifest/1", "spec": asdict(spec), "digest": digest, "files": files, "stats": stats}
        write_atomically(partial / MANIFEST, json.dumps(body, indent=1, sort_keys=True).encode())
        folder = self._folder(spec)
        folder.parent.mkdir(parents=True, exist_ok=True)
        os.rename(partial, folder)
        sync_folder(folder.parent)
        return self._load(folder)

    def _load(self, folder: Path) -> Artifact:
        body = _manifest(folder)
        size_bytes = sum(entry["size_bytes"] for entry in body["files"].values())
        return Artifact(folder, Spec.from_dict(body["spec"]), folder.name, body["digest"], size_bytes, body["stats"])


def folder_digest(folder: Path) -> str:
    """The digest of an artifact with the files of `folder`, which has no folders in it."""
    return _digest({path.name: _file_sha256(path) for path in folder.iterdir() if path.name != MANIFEST})


def _digest(files: Mapping[str, str]) -> str:
    return hashlib.sha256(canonical_json(files)).hexdigest()


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    body = path.read_bytes()
    try:
        found = json.loads(body)
    except ValueError:
        raise _damaged(path) from None
    if not isinstance(found, dict) or not {"spec", "digest", "files", "stats"} <= found.keys():
        raise _damaged(path)
    return found


def _damaged(manifest: Path) -> StoreError:
    fix = "`tilth check --repair` removes that output; then build again: it makes only what is missing."
    return StoreError("the manifest of an output is missing or damaged", where=str(manifest), fix=fix)


def _file_sha256(path: Path, sync: bool = False) -> str:
    """Of the file's bytes; with `sync` they are on the disk afterwards, for a manifest must not outlive them in a power cut."""
    with open(path, "rb") as file:
        if sync:
            os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()
