"""Git repositories: the files at HEAD, or every file version on HEAD's history, each blob one document."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from tilth.corpus.documentation import ALL, check_only
from tilth.corpus.provenance.git_objects import Addition, GitObjects, Head
from tilth.corpus.provenance.git_process import RepositoryError
from tilth.corpus.provenance.scancode import ScanCode, scancode_version
from tilth.corpus.records import Document, Reject, Shard, fingerprint
from tilth.corpus.registry import source
from tilth.corpus.repository_files import RepositoryFiles


@source
@dataclass(frozen=True)
class GitRepository:
    """One repository, bare or not, is one shard; it is only read, and never asked to fetch.

    With `history`, every blob that HEAD's history ever added follows the blobs at HEAD, in topological order.
    Claims of licences come from the file itself and from HEAD's licence files and package metadata. `max_bytes` bounds the text.
    With `scancode`, a SQLite file for its answers, ScanCode is asked of what is left (`provenance/scancode.py`).
    `only="documentation"` takes prose alone: Markdown, reStructuredText, manual pages and the like (`corpus/documentation.py`).
    The commit that HEAD was at is part of the plan: a repository that grows meanwhile is read as it was.
    The origin is the public address of the remote called origin, else `default_origin`, else the folder's name.
    """

    name: str
    path: str
    history: bool = False
    max_bytes: int | None = None
    max_blob_bytes: int = 10 << 20
    scancode: str | None = None
    only: str = ALL
    default_origin: str | None = None

    version: ClassVar[int] = 4
    libraries: ClassVar[tuple[str, ...]] = ("license-expression", "resiliparse")

    def plan(self, digest: Callable[[Path], str] = fingerprint) -> list[Shard]:
        """One shard; its fingerprint is made of HEAD, snapshot and origin. Raises SourceError: no repository, no commit."""
        check_only(self.only, f"GitRepository {self.name}")
        head = self._objects(self.path).head()
        identity = "\0".join(["git", head.revision, head.snapshot or "", head.origin])
        params = {
            "history": self.history, "max_bytes": self.max_bytes, "max_blob_bytes": self.max_blob_bytes,
            "revision": head.revision, "snapshot": head.snapshot, "scancode": scancode_version() if self.scancode else None,
            "only": self.only,
        }  # fmt: skip
        return [Shard(f"{self.name}/00000", self.name, hashlib.sha256(identity.encode()).hexdigest(), params, self.path)]

    def read(self, shard: Shard) -> Iterator[Document | Reject]:
        """Yield a document or a reject for every distinct blob, and a reject for whatever else is at a path."""
        objects = self._objects(shard.location)
        head = objects.at(shard.params["revision"], shard.params["snapshot"])
        yield from _files(objects, head, self.history, self.scancode, self.only).rows(objects.blobs, self.max_blob_bytes)

    @property
    def origin(self) -> str:
        """What occurrences say of where the repository is from. Raises RepositoryError."""
        return self._objects(self.path).origin

    def _objects(self, path: str) -> GitObjects:
        return GitObjects(path, f"GitRepository {self.name}: {path}", self.default_origin)


def _files(objects: GitObjects, head: Head, history: bool, scancode: str | None, only: str) -> RepositoryFiles:
    """Where each blob is: the blobs at HEAD first, in the order of their paths."""
    at_head = [Addition(file, head.revision, head.tree, head.date) for file in objects.tree(head.tree)]
    found = RepositoryFiles(scan=ScanCode(Path(scancode)) if scancode else None, only=only)
    for addition in at_head:
        found.at_head(addition.file, head.origin)
        if addition.file.is_file and found.takes(addition.file):
            found.seen[addition.file.oid] = []
    added = []
    try:
        added = list(objects.additions(head)) if history else []
    except RepositoryError as error:
        found.others.append(Reject(head.origin, "history", f"swh:1:rev:{head.revision}: {error.what}; read at this commit only"))
    in_history = {addition.file.oid for addition in added}
    # what HEAD has and its history never adds (the parents of a graft, say) is seen at HEAD
    for addition in [*added, *(addition for addition in at_head if addition.file.oid not in in_history)]:
        found.add(addition, head.origin, head.snapshot)
    return found
