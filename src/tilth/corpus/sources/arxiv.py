"""arXiv source packages: a bulk tar of packages, one package, or a folder of LaTeX files; a paper is a document."""

from __future__ import annotations

import pickle
import posixpath
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from tilth.corpus.attempts import MAX_SECONDS, Refused, attempt
from tilth.corpus.extract import tex
from tilth.corpus.extract.tex_package import MAX_FILE_BYTES, MAX_TEXT_BYTES
from tilth.corpus.extract.tex_project import READ_SUFFIXES, TEX_SUFFIXES
from tilth.corpus.file_source import FileSource
from tilth.corpus.formats.content import DamagedError, decompressed, peek
from tilth.corpus.formats.tar import BLOCK, Member, TarDamage, is_tar, is_unsafe_name, read_tar
from tilth.corpus.locations import FoundFile, open_raw
from tilth.corpus.provenance.swhid import content_swhid
from tilth.corpus.records import Document, LicenceClaim, Occurrence, Reject, Shard, document_id, printable, screen
from tilth.corpus.registry import source
from tilth.errors import SourceError, did_you_mean

IN_CHILD = "tilth.corpus.extract.tex_papers"
HEAD_BYTES = 1 << 20  # in which a header must be found if the first is damaged
ARCHIVES = (".tar", ".tar.gz", ".tgz", ".gz", ".pdf")
PACKAGED = (".gz", ".tgz", ".tar", ".pdf", ".zip")
# https://info.arxiv.org/help/arxiv_identifier.html: 0704.0001, 1501.00001v2, hep-th/9901001; in file names without the slash
NEW_ID = re.compile(r"(?P<id>\d{4}\.\d{4,5})(?P<version>v\d+)?")
OLD_ID = re.compile(r"(?P<archive>[a-z][a-z-]{1,15}(?:\.[A-Z]{2})?)[_-]?(?P<number>\d{7})(?P<version>v\d+)?")


@source
@dataclass(frozen=True)
class ArxivSource(FileSource):
    """Papers as LaTeX, by RedPajama-V1's rules with their defects repaired (`extract/tex.py`).

    `path` is a file, folder, pattern or URL: arXiv's bulk archives (`arXiv_src_*.tar`), single packages (`.tar.gz`,
    `.gz` of one file), or LaTeX files. Of loose files, every one that is a paper is a document. `before_sections="drop"`
    drops title, abstract and papers without sections as RedPajama-V1 does. Nothing is unpacked to disk.
    """

    before_sections: str = "front_matter"
    max_package_bytes: int = 128 << 20
    max_seconds: float = MAX_SECONDS

    version: ClassVar[int] = tex.VERSION
    libraries: ClassVar[tuple[str, ...]] = ("resiliparse",)
    suffixes: ClassVar[tuple[str, ...]] = (*ARCHIVES, *READ_SUFFIXES)

    def params(self) -> dict[str, Any]:
        """The rule and the limits. Raises SourceError for an unknown rule."""
        if self.before_sections not in tex.BEFORE_SECTIONS:
            fix = did_you_mean(self.before_sections, tex.BEFORE_SECTIONS)
            raise SourceError(f"no such rule: before_sections={self.before_sections!r}", where=self.where, fix=fix)
        return {
            "before_sections": self.before_sections, "max_package_bytes": self.max_package_bytes, "max_seconds": self.max_seconds
        }  # fmt: skip

    def units(self, files: Sequence[FoundFile]) -> list[list[FoundFile]]:
        """Archives one by one; loose files together: all of them if some lie at the top, else by the first folder."""
        loose = [file for file in files if _is_loose(file)]
        together = any("/" not in file.name and file.name.lower().endswith(TEX_SUFFIXES) for file in loose)
        by_folder: dict[str, list[FoundFile]] = {}
        for file in loose:
            by_folder.setdefault("" if together else file.name.partition("/")[0], []).append(file)
        return [*([file] for file in files if not _is_loose(file)), *by_folder.values()]

    def rows(self, unit: list[FoundFile], shard: Shard) -> Iterator[Document | Reject]:
        """A document or reject for every paper, a reject for every damage. Raises SourceError if unreadable."""
        yield from self._loose(unit, shard) if _is_loose(unit[0]) else self._archive(unit[0], shard)

    def _archive(self, file: FoundFile, shard: Shard) -> Iterator[Document | Reject]:
        with open_raw(file.location, self.where) as raw:
            try:
                head, stream = peek(decompressed(raw), HEAD_BYTES)
                bulk = _is_bulk(head)
                if bulk:
                    yield from self._bulk(file, read_tar(stream), shard)
            except DamagedError as error:
                yield Reject(printable(file.name), error.reason, str(error))
                return
        if not bulk:
            with open_raw(file.location, self.where) as raw:
                yield self._package(printable(file.name), raw.read(self.max_package_bytes + 1), None, shard)

    def _bulk(self, file: FoundFile, members: Iterator[Member | TarDamage], shard: Shard) -> Iterator[Document | Reject]:
        for member in members:
            if isinstance(member, TarDamage):
                yield Reject(f"{printable(file.name)}@{member.offset}", member.reason, member.detail)
                continue
            location = printable(f"{file.name}/{member.name}")
            if is_unsafe_name(member.name):
                yield Reject(location, "path_traversal", f"a package named {member.name[:200]!r}")
            elif member.kind in ("link", "device"):
                yield Reject(location, "special_file", f"a {member.kind}")
            elif member.kind == "file":
                if member.size_bytes > self.max_package_bytes:
                    yield Reject(location, "too_large", f"{member.size_bytes} bytes, at most {self.max_package_bytes}")
                    continue
                data = member.read()
                if len(data) == member.size_bytes:  # else the damage follows
                    yield self._package(location, data, member.offset, shard)

    def _package(self, location: str, data: bytes, offset: int | None, shard: Shard) -> Document | Reject:
        if len(data) > self.max_package_bytes:
            return Reject(location, "too_large", f"more than {self.max_package_bytes} bytes")
        paper = attempt(f"{IN_CHILD}:read_paper", data, self.before_sections, max_seconds=self.max_seconds)
        if isinstance(paper, Refused):
            return Reject(location, *paper)
        return self._document(location, paper, content_swhid(data), offset, shard)

    def _loose(self, package: list[FoundFile], shard: Shard) -> Iterator[Document | Reject]:
        """The papers of a folder; a LaTeX file that is neither one nor a part of one is rejected."""
        contents: dict[str, bytes] = {}
        n_left = MAX_TEXT_BYTES
        for file in package:
            with open_raw(file.location, self.where) as raw:
                data = raw.read(min(MAX_FILE_BYTES, n_left) + 1)
            if len(data) > min(MAX_FILE_BYTES, n_left):
                yield Reject(printable(file.name), "too_large", f"{file.size_bytes} bytes, {min(MAX_FILE_BYTES, n_left)} left")
                continue
            contents[file.name] = data
            n_left -= len(data)
        for name, paper in self._papers(contents):
            if isinstance(paper, Refused):
                yield Reject(printable(name), *paper)
            else:
                yield self._document(printable(name), paper, content_swhid(contents[name]), None, shard)

    def _papers(self, contents: dict[str, bytes]) -> list[tuple[str, tex.Paper | Refused]]:
        """All papers in one call, or each in its own where they take too long together."""
        data = pickle.dumps(contents)
        found = attempt(f"{IN_CHILD}:read_folder", data, self.before_sections, None, max_seconds=self.max_seconds)
        if not isinstance(found, Refused):
            return list(found)
        mains = attempt(f"{IN_CHILD}:find_papers", data, max_seconds=self.max_seconds)
        if isinstance(mains, Refused):
            return [(name, mains) for name in sorted(contents) if name.lower().endswith(TEX_SUFFIXES)]
        alone: list[tuple[str, tex.Paper | Refused]] = []
        for main in mains:
            found = attempt(f"{IN_CHILD}:read_folder", data, self.before_sections, main, max_seconds=self.max_seconds)
            alone += [(main, found)] if isinstance(found, Refused) else found
        return alone

    def _document(self, location: str, paper: tex.Paper, raw: str, offset: int | None, shard: Shard) -> Document | Reject:
        if unfit := screen(paper.text):
            return Reject(location, *unfit)
        arxiv_id, version = arxiv_identifier(location)
        licence = shard.params["licence"]
        meta = {
            "title": paper.title, "arxiv_id": arxiv_id, "arxiv_version": version, "main_file": paper.main,
            "n_sections": str(paper.n_sections), "n_macros_expanded": str(paper.n_macros), "files": "\n".join(paper.files),
            "missing_files": "\n".join(paper.missing), "other_papers": "\n".join(paper.other_papers),
        }  # fmt: skip
        claims = (
            [LicenceClaim(self.name, location, licence, "declared", "", None, "recipe", 1.0, effective=True)] if licence else []
        )
        return Document(
            doc_id=document_id("arxiv", self.name, location, raw), text=paper.text, raw_swhid=raw, encoding=paper.encoding,
            extraction=f"tilth tex {tex.VERSION} {self.before_sections}",
            url=f"https://arxiv.org/abs/{arxiv_id}" if arxiv_id else None,
            occurrences=[Occurrence("arxiv", self.name, location, offset=offset)], licences=claims,
            meta={key: value for key, value in meta.items() if value},
        )  # fmt: skip


def arxiv_identifier(location: str) -> tuple[str, str]:
    """(identifier, version) that a file's name or its folder's says, each empty if none: 1501.00001, hep-th/9901001, v2."""
    for part in reversed(location.split("/")):
        stem = re.sub(r"(?i)(?:\.tar|\.gz|\.tgz|\.tex|\.pdf)+$", "", part)
        if match := NEW_ID.fullmatch(stem):
            return match["id"], match["version"] or ""
        if match := OLD_ID.fullmatch(stem):
            return f"{match['archive']}/{match['number']}", match["version"] or ""
    return "", ""


def _is_loose(file: FoundFile) -> bool:
    return not file.name.lower().endswith(ARCHIVES)


def _is_bulk(head: bytes) -> bool:
    """Whether a tar holds packages rather than files: its first member is a folder or an archive with arXiv's sort of name."""
    first = next((at for at in range(0, len(head) - BLOCK + 1, BLOCK) if is_tar(head[at : at + BLOCK])), None)
    if first is None:
        return False
    name = head[first : first + 100].split(b"\0", 1)[0].decode("utf-8", "replace")
    base = posixpath.basename(name.rstrip("/"))
    if name.endswith("/"):
        return re.fullmatch(r"\d{4}", base) is not None
    return base.lower().endswith(PACKAGED) and arxiv_identifier(base)[0] != ""
