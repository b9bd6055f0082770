"""Git repositories: the files at HEAD, or every file version on HEAD's history, each blob one document."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from tilth.corpus.extract.textfile import NotTextError, decoded, read_text
from tilth.corpus.languages import language_of
from tilth.corpus.provenance.git_objects import Addition, Blob, GitObjects, Head
from tilth.corpus.provenance.licences import LicenceTree, is_licence_path
from tilth.corpus.provenance.package_metadata import is_metadata_path
from tilth.corpus.provenance.scancode import ScanCode, scancode_version
from tilth.corpus.records import Document, Occurrence, Reject, Shard, content_document_id, fingerprint
from tilth.corpus.registry import source
from tilth.errors import SourceError

MAX_LICENCE_BYTES = 1 << 20


@source
@dataclass(frozen=True)
class GitRepository:
    """One repository, bare or not, is one shard; it is only read, and never asked to fetch.

    With `history`, every blob that HEAD's history ever added follows the blobs at HEAD, in topological order.
    Claims of licences come from the file itself and from HEAD's licence files and package metadata. `max_bytes` bounds the text.
    With `scancode`, a SQLite file for its answers, ScanCode is asked of what is left (`provenance/scancode.py`).
    """

    name: str
    path: str
    history: bool = False
    max_bytes: int | None = None
    max_blob_bytes: int = 10 << 20
    scancode: str | None = None

    version: ClassVar[int] = 3
    libraries: ClassVar[tuple[str, ...]] = ("license-expression", "resiliparse")

    def plan(self, digest: Callable[[Path], str] = fingerprint) -> list[Shard]:
        """One shard; its fingerprint is made of HEAD, snapshot and origin. Raises SourceError: no repository, no commit."""
        head = self._objects(self.path).head()
        identity = "\0".join(["git", head.revision, head.snapshot or "", head.origin])
        params = {
            "history": self.history, "max_bytes": self.max_bytes, "max_blob_bytes": self.max_blob_bytes,
            "scancode": scancode_version() if self.scancode else None,
        }  # fmt: skip
        return [Shard(f"{self.name}/00000", self.name, hashlib.sha256(identity.encode()).hexdigest(), params, self.path)]

    def read(self, shard: Shard) -> Iterator[Document | Reject]:
        """Yield a document or a reject for every distinct blob."""
        objects = self._objects(shard.location)
        head = objects.head()
        if self.plan()[0].fingerprint != shard.fingerprint:
            raise SourceError(
                "the repository has changed since the build was planned", where=shard.location, fix="run the same command again"
            )
        seen = _occurrences(objects, head, self.history)
        licences = self._licences(objects, head)
        for blob in objects.blobs(seen, self.max_blob_bytes):
            yield _row(blob, seen[blob.oid], licences)

    def _objects(self, path: str) -> GitObjects:
        return GitObjects(path, f"GitRepository {self.name}: {path}")

    def _licences(self, objects: GitObjects, head: Head) -> LicenceTree:
        tree = LicenceTree(head.origin, scan=ScanCode(Path(self.scancode)) if self.scancode else None)
        paths: dict[str, list[str]] = {}
        for file in objects.tree():
            if is_licence_path(file.path) or is_metadata_path(file.path):
                paths.setdefault(file.oid, []).append(file.path)
        for blob in objects.blobs(paths, MAX_LICENCE_BYTES):
            text = decoded(blob.data or b"")
            for path in paths[blob.oid]:
                (tree.add if is_licence_path(path) else tree.add_metadata)(path, text, f"swh:1:cnt:{blob.oid}")
        return tree


def _occurrences(objects: GitObjects, head: Head, history: bool) -> dict[str, list[Occurrence]]:
    """Where each blob is, by id: the blobs at HEAD first, in the order of their paths."""
    at_head = [Addition(file, head.revision, head.tree, head.date) for file in objects.tree()]
    seen: dict[str, list[Occurrence]] = {addition.file.oid: [] for addition in at_head}
    added = list(objects.additions()) if history else []
    in_history = {addition.file.oid for addition in added}
    # what HEAD has and its history never adds (the parents of a graft, say) is seen at HEAD
    added += [addition for addition in at_head if addition.file.oid not in in_history]
    for (mode, oid, path), revision, tree, date in added:
        occurrence = Occurrence(
            "git", head.origin, path, snapshot=head.snapshot, revision=f"swh:1:rev:{revision}",
            directory=f"swh:1:dir:{tree}", mode=mode, date=date,
        )  # fmt: skip
        seen.setdefault(oid, []).append(occurrence)
    return seen


def _row(blob: Blob, occurrences: list[Occurrence], licences: LicenceTree) -> Document | Reject:
    swhid = f"swh:1:cnt:{blob.oid}"
    first = occurrences[0]
    try:
        if blob.data is None:
            raise NotTextError(blob.problem, blob.detail)
        text, encoding = read_text(blob.data)
    except NotTextError as error:
        return Reject(f"{first.origin}:{first.path}", error.reason, f"{swhid}: {error.detail}")
    claims = [claim for occurrence in occurrences for claim in licences.claims(occurrence.path, text, swhid)]
    return Document(
        doc_id=content_document_id(swhid), text=text, raw_swhid=swhid, encoding=encoding, extraction="as it is",
        occurrences=occurrences, language=language_of(first.path), licences=claims,
    )  # fmt: skip
