"""Many git repositories as one source: a folder of clones, each a shard."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from glob import glob, has_magic
from pathlib import Path
from typing import ClassVar

from tilth.corpus.extract import licence_header
from tilth.corpus.reading import share
from tilth.corpus.records import Document, Reject, Shard, fingerprint, printable, screen
from tilth.corpus.registry import source
from tilth.corpus.sources.git import GitRepository
from tilth.errors import SourceError


@source
@dataclass(frozen=True)
class GitRepositories:
    """The repositories at or below `path` (a folder or a pattern), bare or not, each read as GitRepository reads it.

    A repository inside another one's work tree is not looked for. With `strip_licence_headers` the copyright notice at the top
    of a file goes from its text (`extract/licence_header.py`), after its licence was read. `max_bytes` is shared evenly.
    """

    name: str
    path: str
    history: bool = False
    strip_licence_headers: bool = False
    max_bytes: int | None = None
    max_blob_bytes: int = 10 << 20
    scancode: str | None = None

    version: ClassVar[int] = GitRepository.version
    libraries: ClassVar[tuple[str, ...]] = GitRepository.libraries

    def plan(self, digest: Callable[[Path], str] = fingerprint) -> list[Shard]:
        """One shard a repository, in the order of their paths. Raises SourceError: no repository, or one without a commit."""
        found = list(_find(self.path))
        if not found:
            where = f"GitRepositories {self.name}: {self.path}"
            raise SourceError("there is no git repository here", where, "Give a folder of clones, bare or not.")
        caps = share(self.max_bytes, [1] * len(found))
        own = {"strip_licence_headers": licence_header.VERSION if self.strip_licence_headers else None}
        shards = []
        for i, (location, cap) in enumerate(zip(found, caps, strict=True)):
            (shard,) = self._repository(location).plan(digest)
            shards.append(replace(shard, name=f"{self.name}/{i:05d}", params={**shard.params, **own, "max_bytes": cap}))
        return shards

    def read(self, shard: Shard) -> Iterator[Document | Reject]:
        """Yield a document or a reject for every distinct blob of one repository."""
        for row in self._repository(shard.location).read(shard):
            yield _stripped(row) if self.strip_licence_headers and isinstance(row, Document) else row

    def _repository(self, location: str) -> GitRepository:
        return GitRepository(
            self.name, location, history=self.history, max_blob_bytes=self.max_blob_bytes, scancode=self.scancode
        )


def _stripped(document: Document) -> Document | Reject:
    text = licence_header.strip_licence_header(document.text)
    if len(text) == len(document.text):
        return document
    if unfit := screen(text):
        place = document.occurrences[0]
        return Reject(printable(f"{place.origin}:{place.path}"), unfit[0], f"{document.raw_swhid}: nothing but a licence header")
    return replace(document, text=text, extraction=f"licence header off {licence_header.VERSION}")


def _find(path: str) -> Iterator[str]:
    """Repositories at or below the folders of a path or pattern, in the order of their paths."""
    expanded = os.path.expanduser(path)
    for root in sorted(glob(expanded, recursive=True)) if has_magic(expanded) else [expanded]:
        for folder, folders, _ in os.walk(root):
            if _is_repository(folder):
                folders.clear()
                yield folder
            folders.sort()


def _is_repository(folder: str) -> bool:
    if os.path.exists(os.path.join(folder, ".git")):
        return True
    parts = (os.path.join(folder, part) for part in ("HEAD", "objects", "refs"))
    return all(map(os.path.exists, parts))
