"""What the sources of files have in common: files are found, grouped into shards, and read if they are what was planned."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from tilth.corpus.locations import FoundFile, find_files, group_by_size, plan_files, refuse_changed
from tilth.corpus.provenance.spdx_expressions import declared_licence
from tilth.corpus.records import Document, Reject, Shard, fingerprint

SHARD_BYTES = 128 << 20


@dataclass(frozen=True)
class FileSource:
    """Files by `path`: a file, a folder, a glob pattern (`**` descends), or the same behind a URL (`s3://`, `https://`).

    A shard is a run of files of at most `shard_bytes`, or one larger file. `max_bytes` bounds the UTF-8 bytes of text of
    all shards together, shared by file size. `licence` is an SPDX expression that you declare for all of it.
    A subclass says which files of a folder it takes (`suffixes`), which belong together (`units`), what decides how they
    are read (`params`), and reads them (`rows`).
    """

    name: str
    path: str
    max_bytes: int | None = field(default=None, kw_only=True)
    shard_bytes: int = field(default=SHARD_BYTES, kw_only=True)
    licence: str | None = field(default=None, kw_only=True)

    version: ClassVar[int]
    libraries: ClassVar[tuple[str, ...]] = ()
    suffixes: ClassVar[tuple[str, ...]] = ()

    @property
    def where(self) -> str:
        """What errors name."""
        return f"{type(self).__name__} {self.name}"

    def plan(self, digest: Callable[[Path], str] = fingerprint) -> list[Shard]:
        """Shards of whole units, in the order of their files. Raises SourceError: nothing there, an option that cannot be."""
        params = {**self.params(), "licence": declared_licence(self.licence, where=self.where)}
        return plan_files(self.name, self.groups(self.files()), params, self.max_bytes, digest)

    def read(self, shard: Shard) -> Iterator[Document | Reject]:
        """Yield a document or a reject for everything in the files. Raises SourceError: unreadable, changed since planned."""
        for unit in self.units(shard.files):
            for file in unit:
                refuse_changed(file, self.where)
            yield from self.rows(unit, shard)
            for file in unit:  # what was read while it was written may be neither the old nor the new
                refuse_changed(file, self.where)

    def files(self) -> list[FoundFile]:
        """What `path` names. Raises SourceError."""
        return find_files(self.path, self.where, self.suffixes)

    def units(self, files: Sequence[FoundFile]) -> list[list[FoundFile]]:
        """The files that must be read together."""
        return [[file] for file in files]

    def groups(self, files: Sequence[FoundFile]) -> list[list[FoundFile]]:
        """The files of each shard."""
        units = self.units(files)
        groups = group_by_size(units, [sum(file.n_bytes for file in unit) for unit in units], self.shard_bytes)
        return [[file for unit in group for file in unit] for group in groups]

    def params(self) -> dict[str, Any]:
        """What decides how files are read, for the key. Raises SourceError for what cannot be."""
        return {}

    def rows(self, unit: list[FoundFile], shard: Shard) -> Iterator[Document | Reject]:
        """A document or a reject for everything in a unit."""
        raise NotImplementedError
