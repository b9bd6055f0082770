"""arXiv source packages: a bulk tar of packages, one package, or a folder of LaTeX files; a paper is a document."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from tilth.corpus.extract import tex
from tilth.corpus.extract.tex_package import MAX_FILE_BYTES, MAX_TEXT_BYTES, read_package
from tilth.corpus.extract.tex_project import READ_SUFFIXES, TEX_SUFFIXES, read_project, top_level_files
from tilth.corpus.extract.tex_tokens import TexError
from tilth.corpus.formats.content import DamagedError, decompressed, peek
from tilth.corpus.formats.tar import BLOCK, Member, TarDamage, is_tar, is_unsafe_name, read_tar
from tilth.corpus.locations import FoundFile, files_of, find_files, group_files, open_raw, plan_files
from tilth.corpus.provenance.licences import declared_licence
from tilth.corpus.provenance.swhid import content_swhid
from tilth.corpus.records import Document, LicenceClaim, Occurrence, Reject, Shard, document_id, fingerprint, printable, screen
from tilth.corpus.registry import source
from tilth.errors import SourceError, did_you_mean

HEAD_BYTES = 1 << 20  # in which a header must be found if the first is damaged
ARCHIVES = (".tar", ".tar.gz", ".tgz", ".gz", ".pdf")
PACKAGED = (".gz", ".tgz", ".tar", ".pdf", ".zip")
# https://info.arxiv.org/help/arxiv_identifier.html: 0704.0001, 1501.00001v2, hep-th/9901001; in file names without the slash
NEW_ID = re.compile(r"(?P<id>\d{4}\.\d{4,5})(?P<version>v\d+)?")
OLD_ID = re.compile(r"(?P<archive>[a-z][a-z-]{1,15}(?:\.[A-Z]{2})?)[_-]?(?P<number>\d{7})(?P<version>v\d+)?")


@source
@dataclass(frozen=True)
class ArxivSource:
    """Papers as LaTeX, by RedPajama-V1's rules with their defects repaired (`extract/tex.py`).

    `path` is a file, folder, pattern or URL: arXiv's bulk archives (`arXiv_src_*.tar`), single packages (`.tar.gz`,
    `.gz` of one file), or LaTeX files. Of loose files, every one that is a paper is a document. `before_sections="drop"`
    drops title, abstract and papers without sections as RedPajama-V1 does. Nothing is unpacked to disk.
    """

    name: str
    path: str
    before_sections: str = "front_matter"
    max_bytes: int | None = None
    max_package_bytes: int = 128 << 20
    shard_bytes: int = 128 << 20
    licence: str | None = None

    version: ClassVar[int] = tex.VERSION
    libraries: ClassVar[tuple[str, ...]] = ("resiliparse",)

    def plan(self, digest: Callable[[Path], str] = fingerprint) -> list[Shard]:
        """Shards of whole packages. Raises SourceError: nothing there, unknown rule, no such licence."""
        if self.before_sections not in tex.BEFORE_SECTIONS:
            fix = did_you_mean(self.before_sections, tex.BEFORE_SECTIONS)
            raise SourceError(f"no such rule: before_sections={self.before_sections!r}", where=self._where, fix=fix)
        files = find_files(self.path, self._where, (*ARCHIVES, *READ_SUFFIXES))
        groups = group_files([_whole(package) for package in _packages(files)], self.shard_bytes)
        members = {package[0].name: package for package in _packages(files)}
        params = {
            "before_sections": self.before_sections, "max_package_bytes": self.max_package_bytes,
            "licence": declared_licence(self.licence, where=self._where),
        }  # fmt: skip
        whole = [[file for first in group for file in members[first.name]] for group in groups]
        return plan_files(self.name, whole, params, self.max_bytes, digest, self.path)

    @property
    def _where(self) -> str:
        return f"ArxivSource {self.name}"

    def read(self, shard: Shard) -> Iterator[Document | Reject]:
        """Yield a document or reject for every paper, a reject for every damage. Raises SourceError if unreadable."""
        for package in _packages(files_of(shard, self._where)):
            if _is_loose(package[0]):
                yield from self._loose(package, shard)
            else:
                yield from self._archive(package[0], shard)

    def _archive(self, file: FoundFile, shard: Shard) -> Iterator[Document | Reject]:
        with open_raw(file.location, self._where) as raw:
            try:
                head, stream = peek(decompressed(raw), HEAD_BYTES)
                bulk = _is_bulk(head)
                if bulk:
                    yield from self._bulk(file, read_tar(stream), shard)
            except DamagedError as error:
                yield Reject(printable(file.name), error.reason, str(error))
                return
        if not bulk:
            with open_raw(file.location, self._where) as raw:
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
        try:
            package = read_package(data)
            paper = tex.extract_tex(package.files, shard.params["before_sections"], package.directives)
        except TexError as error:
            return Reject(location, error.reason, error.detail)
        return self._document(location, paper, content_swhid(data), offset, shard)

    def _loose(self, package: list[FoundFile], shard: Shard) -> Iterator[Document | Reject]:
        """The papers of a folder; a LaTeX file that is neither one nor a part of one is rejected."""
        contents: dict[str, bytes] = {}
        n_left = MAX_TEXT_BYTES
        for file in package:
            with open_raw(file.location, self._where) as raw:
                data = raw.read(min(MAX_FILE_BYTES, n_left) + 1)
            if len(data) > min(MAX_FILE_BYTES, n_left):
                yield Reject(printable(file.name), "too_large", f"{file.size_bytes} bytes, {min(MAX_FILE_BYTES, n_left)} left")
                continue
            contents[file.name] = data
            n_left -= len(data)
        project = read_project(contents)
        mains = top_level_files(project)
        parts: set[str] = set()
        for main in sorted(mains):
            try:
                paper = tex.extract_paper(project, main, shard.params["before_sections"])
                parts.update(paper.files)
                yield self._document(printable(main), paper, content_swhid(contents[main]), None, shard)
            except TexError as error:
                parts.update(project.used)
                yield Reject(printable(main), error.reason, error.detail)
        for name in sorted(contents.keys() - parts - set(mains)):
            if name.lower().endswith(TEX_SUFFIXES):
                known = name in project.texts
                detail = "no paper reads it" if known else "its bytes are no text"
                yield Reject(printable(name), "fragment" if known else "binary", detail)

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


def _packages(files: list[FoundFile]) -> list[list[FoundFile]]:
    """Archives one by one; loose files together: all of them if some lie at the top, else by the first folder."""
    loose = [file for file in files if _is_loose(file)]
    together = any("/" not in file.name and file.name.lower().endswith(TEX_SUFFIXES) for file in loose)
    by_folder: dict[str, list[FoundFile]] = {}
    for file in loose:
        by_folder.setdefault("" if together else file.name.partition("/")[0], []).append(file)
    return [*([file] for file in files if not _is_loose(file)), *by_folder.values()]


def _whole(package: list[FoundFile]) -> FoundFile:
    return FoundFile(package[0].name, package[0].location, sum(file.size_bytes for file in package))


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
