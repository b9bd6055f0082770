"""What a source yields: documents and rejects, nothing else; and the shards that it plans."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

if TYPE_CHECKING:
    from tilth.corpus.locations import FoundFile

CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Shard:
    """The unit of work. `params` go into the key of what is made from it; `location` and `files`, where it lies, never do."""

    name: str  # "web/00000"
    source: str
    fingerprint: str  # sha256, 64 hexadecimal digits
    params: dict[str, Any]
    location: str
    files: tuple[FoundFile, ...] = ()  # as they were when it was planned


@dataclass(frozen=True)
class Occurrence:
    """One place where a document's content was seen."""

    kind: str  # git, warc, file, package
    origin: str
    path: str
    snapshot: str | None = None
    revision: str | None = None
    directory: str | None = None
    mode: str | None = None
    record_id: str | None = None
    offset: int | None = None
    date: str | None = None


class LicenceClaim(NamedTuple):
    """A licence that something says one occurrence is under, and what says it."""

    origin: str
    path: str
    spdx: str
    scope: str  # file, ancestor, repository, declared
    evidence_path: str
    evidence_swhid: str | None
    tool: str
    score: float
    effective: bool = False
    tool_version: str = ""
    first_line: int | None = None  # of the evidence, from 1
    last_line: int | None = None


@dataclass(frozen=True)
class Document:
    """Text with its provenance; `raw_swhid` names the archived bytes, `encoding` and `extraction` how they became text."""

    doc_id: bytes  # 16 bytes
    text: str
    raw_swhid: str
    encoding: str
    extraction: str
    occurrences: list[Occurrence]
    url: str | None = None
    language: str | None = None
    meta: dict[str, str] = field(default_factory=dict)
    licences: list[LicenceClaim] = field(default_factory=list)


@dataclass(frozen=True)
class Reject:
    """Input that did not become a document: where it is, one snake_case word for why, and the details."""

    location: str
    reason: str
    detail: str


class Source(Protocol):
    """A description of where documents come from: a frozen dataclass, registered with `@source`.

    `version` rises when the same input gives other documents; `libraries` name the distributions
    whose versions decide what is read. Both belong into the key of a read. `special_tokens`, where a source has them, are
    the markers that it sets in texts (`tilth.tokenize.thread_markers`): a tokenizer of its corpus gets them.
    """

    version: ClassVar[int]
    libraries: ClassVar[tuple[str, ...]]

    @property
    def name(self) -> str:
        """The corpus-wide name: the first part of every shard's name."""
        ...

    def plan(self) -> list[Shard]:
        """List the shards. Reads fingerprints, no content; raises SourceError where nothing can be read."""
        ...

    def read(self, shard: Shard) -> Iterator[Document | Reject]:
        """Yield a document or a reject for every row of the shard."""
        ...


def document_id(*parts: str | bytes) -> bytes:
    """The first 16 bytes of sha256 over the length-prefixed parts."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogateescape") if isinstance(part, str) else part
        digest.update(b"%d:" % len(data) + data)
    return digest.digest()[:16]


def content_document_id(swhid: str) -> bytes:
    """The id of a document that is its content: the first 16 bytes of sha256 of the SWHID string."""
    return hashlib.sha256(swhid.encode("ascii")).digest()[:16]


def screen(text: str) -> tuple[str, str] | None:
    """Return (reason, detail) if `text` cannot be a document: it is empty or holds a NUL."""
    if "\0" in text:
        return "nul_byte", f"U+0000 at character {text.index(chr(0))} of {len(text)}"
    if not text.strip():
        return "empty", f"no text in {len(text)} characters" if text else "no text"
    return None


def printable(text: str) -> str:
    """A file's name, or another text that need not be UTF-8, with `\\udcff` for what UTF-8 cannot hold, as Python prints it."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def fingerprint(path: str | os.PathLike[str]) -> str:
    """sha256 of a file's bytes, streamed. Raises OSError."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
