"""Text files below a folder, chosen by a pattern; anything that is not a readable text file becomes a reject and never blocks."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

from tilth.corpus.extract.textfile import NotTextError, decoded, read_text
from tilth.corpus.languages import detect
from tilth.corpus.locations import FoundFile, group_by_size, local_stamp
from tilth.corpus.provenance.licences import LicenceTree, speaks_of_licences
from tilth.corpus.provenance.swhid import content_swhid
from tilth.corpus.reading import share
from tilth.corpus.records import Document, Occurrence, Reject, Shard, document_id, fingerprint, printable
from tilth.corpus.registry import source
from tilth.errors import SourceError

MAX_LICENCE_BYTES = 1 << 20


class Found(NamedTuple):
    """A file that the pattern matches: its path below the folder, its size, and why it cannot be read (empty: it can)."""

    path: str
    size_bytes: int
    problem: str
    stamp: str = ""


@source
@dataclass(frozen=True)
class Folder:
    """Files below `path` that match `pattern` (`*` stays in a folder, `**` descends), in the order of their paths.

    Links to files are read, links to folders are not entered. A shard is a run of files of at most
    `shard_bytes`, or one larger file. `max_bytes` bounds the text of all shards, shared by their size.
    """

    name: str
    path: str
    pattern: str = "**/*"
    max_bytes: int | None = None
    max_file_bytes: int = 16 << 20
    shard_bytes: int = 128 << 20

    version: ClassVar[int] = 4
    libraries: ClassVar[tuple[str, ...]] = ("license-expression", "resiliparse")

    def plan(self, digest: Callable[[Path], str] = fingerprint) -> list[Shard]:
        """Raises SourceError if there is no such folder or no file in it matches."""
        found = list(self._files(Path(self.path)))
        if not found:
            every = self.pattern == "**/*"
            fix = "give a folder with files" if every else f"`{self.pattern}` matches nothing; `**/*` takes every file"
            raise SourceError("no file to read", where=f"Folder {self.name}: {self.path}", fix=fix)
        groups = group_by_size(found, [file.size_bytes for file in found], self.shard_bytes)
        caps = share(self.max_bytes, [sum(file.size_bytes for file in group) for group in groups])
        return [self._shard(i, group, cap, digest) for i, (group, cap) in enumerate(zip(groups, caps, strict=True))]

    def _shard(self, index: int, group: list[Found], cap: int | None, digest: Callable[[Path], str]) -> Shard:
        contents = hashlib.sha256()
        for file in group:
            contents.update(f"{printable(file.path)}\0{self._digest(file, digest)}\n".encode())
        params = {
            "pattern": self.pattern, "max_bytes": cap, "max_file_bytes": self.max_file_bytes,
            "first": printable(group[0].path), "last": printable(group[-1].path),
        }  # fmt: skip
        files = tuple(FoundFile(file.path, self.path, file.size_bytes, stamp=file.stamp or file.problem) for file in group)
        return Shard(f"{self.name}/{index:05d}", self.name, contents.hexdigest(), params, self.path, files)

    def _digest(self, file: Found, digest: Callable[[Path], str]) -> str:
        if file.problem:
            return file.problem
        try:
            return digest(Path(self.path, file.path)) if file.size_bytes <= self.max_file_bytes else str(file.size_bytes)
        except OSError as error:
            return _reason(error)

    def read(self, shard: Shard) -> Iterator[Document | Reject]:
        """Yield a document or a reject for every file of the shard. Raises SourceError if they are not what was planned."""
        root = Path(shard.location)
        found = list(self._files(root))
        licences = self._licences(root, found)
        first, last = shard.params["first"], shard.params["last"]
        own = [file for file in found if first <= printable(file.path) <= last]
        planned = [(file.name, file.size_bytes, file.stamp) for file in shard.files]
        if [(file.path, file.size_bytes, file.stamp or file.problem) for file in own] != planned:
            what = "files have changed since the build was planned"
            raise SourceError(what, where=f"Folder {self.name}: {self.path}", fix="run the same command again")
        for file in own:
            yield self._row(root, file, licences)

    def _row(self, root: Path, file: Found, licences: LicenceTree) -> Document | Reject:
        try:
            data = read_regular_file(root / file.path, self.max_file_bytes)
            text, encoding = read_text(data)
        except NotTextError as error:
            return Reject(file.path, error.reason, error.detail)
        except OSError as error:
            return Reject(file.path, _reason(error), error.strerror or str(error))
        swhid = content_swhid(data)
        doc_id = document_id("file", self.name, file.path, swhid)
        occurrence = Occurrence("file", self.name, file.path)
        claims = licences.claims(file.path, text, swhid)
        return Document(
            doc_id=doc_id, text=text, raw_swhid=swhid, encoding=encoding, extraction="as it is",
            occurrences=[occurrence], language=detect(file.path, data).language, licences=claims,
        )  # fmt: skip

    def _licences(self, root: Path, found: list[Found]) -> LicenceTree:
        tree = LicenceTree(self.name)
        for file in found:
            if speaks_of_licences(file.path) and not file.problem:
                try:
                    data = read_regular_file(root / file.path, MAX_LICENCE_BYTES)
                except (OSError, NotTextError):  # its own row says why
                    continue
                tree.take(file.path, decoded(data), content_swhid(data))
        return tree

    def _files(self, root: Path) -> Iterator[Found]:
        """What the pattern matches and folders that cannot be listed, by path; folders are entered once, links to them never."""
        if not root.is_dir():
            raise SourceError(
                "there is no such folder", where=f"Folder {self.name}: {self.path}", fix="give the path of a folder"
            )
        wanted = pattern_regex(self.pattern)
        errors: list[OSError] = []
        matched = [path for path in _walk(root, errors.append) if wanted.fullmatch(path)]
        unlisted = {os.path.relpath(error.filename, root): _reason(error) for error in errors}
        if "." in unlisted:
            raise SourceError(
                "the folder cannot be read", where=f"Folder {self.name}: {self.path}", fix="who may read it? see `ls -ld`"
            )
        for path in sorted([*matched, *unlisted], key=printable):
            if path in unlisted:
                yield Found(path, 0, unlisted[path])
                continue
            try:
                facts = os.stat(root / path)
            except OSError as error:
                yield Found(path, 0, _reason(error))
                continue
            problem = "" if stat.S_ISREG(facts.st_mode) else "special_file"
            yield Found(path, facts.st_size if not problem else 0, problem, "" if problem else local_stamp(facts))


def _walk(root: Path, on_error: Callable[[OSError], None]) -> Iterator[str]:
    for folder, folders, files in os.walk(root, onerror=on_error):
        base = os.path.relpath(folder, root)
        links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
        for name in [*files, *links]:
            yield name if base == "." else f"{base}/{name}"


def pattern_regex(pattern: str) -> re.Pattern[str]:
    """A glob pattern as a regular expression: `*` and `?` do not cross `/`, `**/` is any number of folders."""
    parts = re.split(r"(\*\*/|\*\*|\*|\?)", pattern)
    meaning = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    return re.compile("".join(meaning.get(part, re.escape(part)) for part in parts), re.DOTALL)


def read_regular_file(path: Path, max_bytes: int) -> bytes:
    """The bytes of a regular file, without ever waiting for a FIFO or device.

    Raises OSError, and NotTextError (too_large, special_file).
    """
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    with os.fdopen(handle, "rb", buffering=0) as file:
        facts = os.fstat(handle)
        if not stat.S_ISREG(facts.st_mode):
            raise NotTextError("special_file", f"not a regular file (mode {stat.filemode(facts.st_mode)})")
        parts, n_left = [], max_bytes + 1
        while n_left and (part := file.read(n_left)):
            parts.append(part)
            n_left -= len(part)
    if not n_left:
        raise NotTextError("too_large", f"{facts.st_size} bytes, at most {max_bytes}")
    return b"".join(parts)


def _reason(error: OSError) -> str:
    known = {errno.ENOENT: "vanished", errno.ELOOP: "symlink_loop", errno.EISDIR: "special_file", errno.ENXIO: "special_file"}
    return known.get(error.errno or 0, "unreadable")
