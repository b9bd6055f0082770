"""From the files of a commit and the bytes of its blobs to documents and rejects: what git and the archive's tables share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from tilth.corpus.extract.textfile import NotTextError, decoded, read_text
from tilth.corpus.languages import detect
from tilth.corpus.provenance.git_objects import LINK_MODE, SUBMODULE_MODE, Addition, Blob, TreeFile
from tilth.corpus.provenance.git_refs import DEFAULT_POLICY
from tilth.corpus.provenance.licences import LicenceTree, is_licence_path
from tilth.corpus.provenance.package_metadata import is_metadata_path
from tilth.corpus.provenance.scancode import ScanCode
from tilth.corpus.records import Document, Occurrence, Reject, content_document_id, printable

MAX_LICENCE_BYTES = 1 << 20
NOT_FILES = {LINK_MODE: ("symlink", "cnt"), SUBMODULE_MODE: ("submodule", "rev")}
ReadBlobs = Callable[[Iterable[str], int], Iterator[Blob]]


@dataclass
class RepositoryFiles:
    """Where each blob is, by id in the order of first sight, and what is at paths that hold no file (rejects)."""

    seen: dict[str, list[Occurrence]] = field(default_factory=dict)
    others: list[Reject] = field(default_factory=list)
    scan: ScanCode | None = None  # asked of licence files that nothing else knows
    licence_paths: dict[str, list[tuple[str, str]]] = field(default_factory=dict)  # blob -> (origin, path)
    folded: Counter[tuple[str, str]] = field(default_factory=Counter)  # (origin, path without case) at the commit that is read

    def add(self, addition: Addition, origin: str, snapshot: str | None) -> None:
        """Take in what a commit has at a path."""
        file = addition.file
        if not file.is_file:
            self.others.append(_no_file(file, addition, origin))
            return
        occurrence = Occurrence(
            "git", origin, file.path, snapshot=snapshot, revision=f"swh:1:rev:{addition.revision}",
            directory=f"swh:1:dir:{addition.tree}", mode=file.mode, date=addition.date,
        )  # fmt: skip
        self.seen.setdefault(file.oid, []).append(occurrence)

    def at_head(self, file: TreeFile, origin: str) -> None:
        """Note a file of the tree whose licence files count and whose names may collide."""
        self.folded[origin, file.path.casefold()] += 1
        if file.is_file and (is_licence_path(file.path) or is_metadata_path(file.path)):
            self.licence_paths.setdefault(file.oid, []).append((origin, file.path))

    def rows(self, blobs: ReadBlobs, max_blob_bytes: int) -> Iterator[Document | Reject]:
        """A document or a reject for every distinct blob, then one for everything that is no file."""
        licences = self._licences(blobs)
        for blob in blobs(self.seen, max_blob_bytes):
            yield self._row(blob, self.seen[blob.oid], licences)
        yield from self.others

    def _licences(self, blobs: ReadBlobs) -> dict[str, LicenceTree]:
        origins = {occurrence.origin for places in self.seen.values() for occurrence in places}
        trees = {origin: LicenceTree(origin, scan=self.scan) for origin in origins}
        for blob in blobs(self.licence_paths, MAX_LICENCE_BYTES):
            text = decoded(blob.data or b"")
            for origin, path in self.licence_paths[blob.oid] if text else []:
                tree = trees[origin]
                (tree.add if is_licence_path(path) else tree.add_metadata)(path, text, f"swh:1:cnt:{blob.oid}")
        return trees

    def _row(self, blob: Blob, places: list[Occurrence], licences: dict[str, LicenceTree]) -> Document | Reject:
        swhid = f"swh:1:cnt:{blob.oid}"
        first = places[0]
        try:
            if blob.data is None:
                raise NotTextError(blob.problem, blob.detail)
            text, encoding = read_text(blob.data)
        except NotTextError as error:
            return Reject(f"{first.origin}:{first.path}", error.reason, f"{swhid}: {error.detail}")
        claims = [claim for place in places for claim in licences[place.origin].claims(place.path, text, swhid)]
        return Document(
            doc_id=content_document_id(swhid), text=text, raw_swhid=swhid, encoding=encoding, extraction="as it is",
            occurrences=places, language=detect(first.path, blob.data).language, licences=claims, meta=self._meta(places),
        )  # fmt: skip

    def _meta(self, places: list[Occurrence]) -> dict[str, str]:
        collides = [place.path for place in places if self.folded[place.origin, place.path.casefold()] > 1]
        policy = {"snapshot_refs": DEFAULT_POLICY} if any(place.snapshot for place in places) else {}
        return {**policy, **({"case_collision": printable(collides[0])} if collides else {})}


def _no_file(file: TreeFile, addition: Addition, origin: str) -> Reject:
    """A link, a submodule, a tree or commit that cannot be read: counted by its name, with the SWHID of what is there."""
    where = f"{origin}:{file.path}"
    if file.problem:
        named = f"swh:1:dir:{file.oid}" if file.oid else f"swh:1:rev:{addition.revision}"
        return Reject(where, file.problem, f"{named}: {file.detail}")
    reason, kind = NOT_FILES.get(file.mode, ("odd_mode", "cnt"))
    return Reject(where, reason, f"swh:1:{kind}:{file.oid}: mode {file.mode}")
