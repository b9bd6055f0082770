"""Many git repositories as one source: a folder of clones, each a shard."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from glob import glob, has_magic
from pathlib import Path
from typing import ClassVar

from tilth.corpus.documentation import ALL, check_only
from tilth.corpus.extract import licence_header
from tilth.corpus.provenance.git_process import RepositoryError, is_repository
from tilth.corpus.reading import share
from tilth.corpus.records import Document, Reject, Shard, fingerprint, printable, screen
from tilth.corpus.registry import source
from tilth.corpus.repository_facts import read_facts, refuse_missing
from tilth.corpus.sources.git import GitRepository
from tilth.errors import SourceError

SHARD_DIGITS = 12  # hexadecimal: a million repositories share a name with probability .002


@source
@dataclass(frozen=True)
class GitRepositories:
    """The repositories at or below `path` (a folder or a pattern), bare or not, each read as GitRepository reads it.

    Links to repositories count, links to other folders are not followed, and a repository inside another one's work tree is not
    looked for; one that cannot be read is one counted reject. One without a remote goes by its path below `path`, and by a digest
    of this path goes the shard, so that no other is read again when repositories come or go.
    `facts` is a table (CSV, JSON lines, Parquet) with a row for each `repository` (`corpus/repository_facts.py`): its columns,
    such as `stars` and `forks`, are in the `meta` of every document, so that rules and SQL can ask `meta['stars']::int`.
    With `strip_licence_headers` the copyright notice at the top of a file goes from its text
    (`extract/licence_header.py`), after its licence was read. `max_bytes` is shared evenly.
    `only="documentation"` takes prose alone (`corpus/documentation.py`).
    """

    name: str
    path: str
    history: bool = False
    strip_licence_headers: bool = False
    max_bytes: int | None = None
    max_blob_bytes: int = 10 << 20
    scancode: str | None = None
    only: str = ALL
    facts: str | None = None

    version: ClassVar[int] = GitRepository.version
    libraries: ClassVar[tuple[str, ...]] = GitRepository.libraries

    def plan(self, digest: Callable[[Path], str] = fingerprint) -> list[Shard]:
        """One shard a repository, in the order of their paths.

        Raises SourceError if there is none, and where `facts` cannot be read or lack one.
        """
        check_only(self.only, f"GitRepositories {self.name}")
        found = _find(self.path)
        if not found:
            where = f"GitRepositories {self.name}: {self.path}"
            raise SourceError("there is no git repository here", where, "Give a folder of clones, bare or not.")
        facts = read_facts(self.facts) if self.facts is not None else None
        caps = share(self.max_bytes, [1] * len(found))
        own = {"strip_licence_headers": licence_header.VERSION if self.strip_licence_headers else None}
        shards, missing = [], []
        for location, cap in zip(found, caps, strict=True):
            shard = self._plan(location, digest)
            params = {**shard.params, **own, "max_bytes": cap}
            if facts is not None and "problem" not in params:
                known = facts.of(self._repository(location).origin, self._folder(location))
                missing += [self._folder(location)] if known is None else []
                params["facts"] = known
            shards.append(replace(shard, name=self._named(location), params=params))
        refuse_missing(missing, str(self.facts))
        return shards

    def read(self, shard: Shard) -> Iterator[Document | Reject]:
        """Yield a document or a reject for every distinct blob of one repository, or one reject for all of a damaged one."""
        if problem := shard.params.get("problem"):
            yield Reject(self._folder(shard.location), *problem)
            return
        facts = shard.params.get("facts") or {}
        try:
            for row in self._repository(shard.location).read(shard):
                if isinstance(row, Document):
                    row = replace(row, meta={**row.meta, **facts}) if facts else row
                    yield _stripped(row) if self.strip_licence_headers else row
                else:
                    yield row
        except RepositoryError as error:
            yield Reject(self._folder(shard.location), error.reason, error.what)

    def _plan(self, location: str, digest: Callable[[Path], str]) -> Shard:
        """The shard of one repository. One that cannot be read (no commit, damaged, SHA-256) has a `problem`."""
        try:
            (shard,) = self._repository(location).plan(digest)
        except RepositoryError as error:
            if error.reason == "no_git":
                raise
            problem = [error.reason, error.what]
            identity = "\0".join(["git", self._folder(location), *problem])
            return Shard("", self.name, hashlib.sha256(identity.encode()).hexdigest(), {"problem": problem}, location)
        return shard

    def _named(self, location: str) -> str:
        """A shard's name lasts while other repositories come and go, and says nothing of whose a repository is."""
        return f"{self.name}/{hashlib.sha256(self._folder(location).encode()).hexdigest()[:SHARD_DIGITS]}"

    def _folder(self, location: str) -> str:
        """The path of a repository below the folder that was asked for: what nobody else below it is named."""
        parts = Path(os.path.expanduser(self.path)).parts
        fixed = next((i for i, part in enumerate(parts) if has_magic(part)), len(parts))
        below = os.path.relpath(location, os.path.join(".", *parts[:fixed]))
        return printable(os.path.basename(os.path.abspath(location)) if below == "." else below)

    def _repository(self, location: str) -> GitRepository:
        return GitRepository(
            self.name, location, history=self.history, max_blob_bytes=self.max_blob_bytes, scancode=self.scancode,
            only=self.only, default_origin=self._folder(location),
        )  # fmt: skip


def _stripped(document: Document) -> Document | Reject:
    text = licence_header.strip_licence_header(document.text)
    if len(text) == len(document.text):
        return document
    if unfit := screen(text):
        place = document.occurrences[0]
        return Reject(printable(f"{place.origin}:{place.path}"), unfit[0], f"{document.raw_swhid}: nothing but a licence header")
    return replace(document, text=text, extraction=f"licence header off {licence_header.VERSION}")


def _find(path: str) -> list[str]:
    """Repositories at or below the folders of a path or pattern, in the order of their paths."""
    expanded = os.path.expanduser(path)
    found = set()
    for root in glob(expanded, recursive=True) if has_magic(expanded) else [expanded]:
        for folder, folders, _ in os.walk(root):
            if is_repository(folder):
                folders.clear()
                found.add(folder)
                continue
            inside = (os.path.join(folder, name) for name in folders)
            found.update(one for one in inside if os.path.islink(one) and is_repository(one))
    return sorted(found, key=lambda location: Path(location).parts)
