"""Packages as registries give them: wheels, source distributions, npm, crates, gems, Go modules, Composer; read, never run."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO, ClassVar

from tilth.corpus.archived_packages import ArchivedPackage, identify, is_description, unpacked_gem_metadata
from tilth.corpus.documentation import ALL, DOCUMENTATION, check_only, is_documentation_file, is_documentation_path
from tilth.corpus.extract.textfile import NotTextError, decoded, read_text
from tilth.corpus.file_source import FileSource
from tilth.corpus.formats.content import LIMITS, MAX_RATIO, DamagedError
from tilth.corpus.formats.members import GEM_METADATA, Damage, Member, read_member, read_members
from tilth.corpus.formats.tar import is_unsafe_name
from tilth.corpus.languages import detect
from tilth.corpus.locations import FoundFile, open_raw
from tilth.corpus.provenance.distributions import description, description_language, parsed_metadata, stated_licences
from tilth.corpus.provenance.licences import LicenceTree, is_licence_path
from tilth.corpus.provenance.package_metadata import is_metadata_path
from tilth.corpus.provenance.swhid import content_swhid
from tilth.corpus.records import Document, LicenceClaim, Occurrence, Reject, Shard, document_id, printable, screen
from tilth.corpus.registry import source

MAX_NOTE_BYTES, MAX_NOTES_BYTES = 1 << 20, 64 << 20  # of licence files and metadata: of one, and of all in an archive
NO_FILES = {"link": "link", "device": "special_file"}


@source
@dataclass(frozen=True)
class PackageArchives(FileSource):
    """The documentation in downloaded packages or, with `only="all"`, every text file in them; one row a file of an archive.

    Which package an archive holds is told by its metadata, not by its name. Documentation is what `corpus/documentation.py`
    says, with paths below the package's root; of Python packages without a README the long description is taken from the
    metadata. Nothing is unpacked to disk. `licence` is what you declare for packages that say nothing themselves.
    """

    only: str = DOCUMENTATION
    max_file_bytes: int = 10 << 20

    version: ClassVar[int] = 1
    libraries: ClassVar[tuple[str, ...]] = ("license-expression", "resiliparse")
    suffixes: ClassVar[tuple[str, ...]] = (
        ".whl", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst", ".zip", ".crate", ".gem",
    )  # fmt: skip

    def params(self) -> dict[str, Any]:
        """What is taken, and the limit. Raises SourceError for another choice."""
        check_only(self.only, self.where)
        return {"only": self.only, "max_file_bytes": self.max_file_bytes}

    def rows(self, unit: list[FoundFile], shard: Shard) -> Iterator[Document | Reject]:
        """A document or a reject for every file that is asked for, a reject for every damage."""
        (file,) = unit
        archive = printable(file.name)
        with open_raw(file.location, self.where) as raw:
            notes, damage = _notes(raw)
            package = identify(archive, notes)
            if package is None:
                why = damage or Damage(0, "not_a_package", "no metadata of a package that is known")
                yield Reject(f"{archive}@{why.offset}", why.reason, why.detail)
                return
            opened = _Package(self.name, archive, package, notes[package.metadata], _licences(package, notes, shard))
            n_left = LIMITS.free_bytes + MAX_RATIO * file.size_bytes
            yield from self._files(opened, raw, n_left)

    def _files(self, package: _Package, raw: BinaryIO, n_left: int) -> Iterator[Document | Reject]:
        seen: set[str] = set()
        for member in read_members(raw):
            if isinstance(member, Damage):
                yield Reject(f"{package.archive}@{member.offset}", member.reason, member.detail)
                continue
            path = package.path(member.name)
            if member.kind == "folder" or not self._takes(package, path):
                continue
            if path in seen:
                yield package.reject(path, "duplicate_name", "another file of the archive has the same name")
                continue
            seen.add(path)
            n_left -= member.size_bytes
            if n_left < 0:
                yield package.reject(path, "too_large", f"the files unpack to more than {MAX_RATIO} times the archive")
                return
            yield self._row(package, path, member)
        if package.described.ecosystem == "pypi" and not any(_is_readme(path) for path in seen):
            yield package.long_description()

    def _takes(self, package: _Package, path: str) -> bool:
        if path == package.path(package.described.metadata):
            return package.described.ecosystem not in ("pypi", "gem") and self.only == ALL
        return self.only == ALL or is_documentation_path(path)

    def _row(self, package: _Package, path: str, member: Member) -> Document | Reject:
        if is_unsafe_name(member.name):
            return package.reject(path, "path_traversal", f"a file named {member.name[:200]!r}")
        if member.kind in NO_FILES:
            return package.reject(path, NO_FILES[member.kind], f"a {member.kind}")
        try:
            data = read_member(member, self.max_file_bytes)
            text, encoding = read_text(data)
        except (DamagedError, NotTextError) as error:
            return package.reject(path, error.reason, error.detail)
        language = detect(path, data).language
        if self.only != ALL and not is_documentation_file(path, language):
            return package.reject(path, "not_documentation", language or "no known language")
        return package.document(path, text, content_swhid(data), encoding, language)


@dataclass(frozen=True)
class _Package:
    """One package while it is read."""

    source: str
    archive: str
    described: ArchivedPackage
    metadata: bytes
    licences: LicenceTree
    meta: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        one = self.described
        meta = {
            "ecosystem": one.ecosystem, "package": one.name, "version": one.version, "archive": self.archive,
            "repository": one.repository,
        }  # fmt: skip
        object.__setattr__(self, "meta", {key: value for key, value in meta.items() if value})

    def path(self, member: str) -> str:
        """The path of a member below the package's root; of one that is not there, its whole name."""
        return member.removeprefix("./").removeprefix(self.described.root.removeprefix("./"))

    def reject(self, path: str, reason: str, detail: str) -> Reject:
        return Reject(printable(f"{self.described.purl}:{path}"), reason, detail)

    def document(
        self, path: str, text: str, swhid: str, encoding: str, language: str | None, extraction: str = "as it is"
    ) -> Document:
        claims = self.licences.claims(path, text, swhid)
        return Document(
            doc_id=document_id("package", self.source, self.archive, path, swhid), text=text, raw_swhid=swhid, encoding=encoding,
            extraction=extraction, occurrences=[Occurrence("package", self.described.purl, path)], language=language,
            licences=claims, meta=self.meta,
        )  # fmt: skip

    def long_description(self) -> Document | Reject:
        headers = parsed_metadata(self.metadata)
        path, text = self.path(self.described.metadata), description(headers)
        if unfit := screen(text):
            return self.reject(path, unfit[0], f"long description: {unfit[1]}")
        swhid, name = content_swhid(self.metadata), posixpath.basename(path)
        return self.document(path, text, swhid, "utf-8", description_language(headers), f"body of {name}")


def _notes(raw: BinaryIO) -> tuple[dict[str, bytes], Damage | None]:
    """Licence files and metadata by name as far as they are read, and the first damage."""
    notes: dict[str, bytes] = {}
    n_left, damage = MAX_NOTES_BYTES, None
    for member in read_members(raw):
        if isinstance(member, Damage):
            damage = damage or member
            continue
        wanted = is_licence_path(member.name) or is_metadata_path(member.name) or is_description(member.name)
        if wanted and member.kind == "file" and member.size_bytes <= n_left and member.name not in notes:
            try:
                notes[member.name] = read_member(member, MAX_NOTE_BYTES)
            except DamagedError:  # its own row says why, if it is asked for
                continue
            n_left -= member.size_bytes
    return notes, damage


def _licences(package: ArchivedPackage, notes: dict[str, bytes], shard: Shard) -> LicenceTree:
    """What a package says of its licence, by files, metadata and folders; what the recipe declares where it says nothing."""
    below = {name.removeprefix(package.root): data for name, data in notes.items()}
    if package.ecosystem == "pypi":
        metadata = package.metadata.removeprefix(package.root)
        tree = stated_licences(package.purl, metadata, notes[package.metadata], below.items())
    else:
        tree = LicenceTree(package.purl)
        for path, data in below.items():
            if is_licence_path(path):
                tree.add(path, decoded(data), content_swhid(data))
    for path, data in below.items():
        if is_metadata_path(path):
            is_gem = package.ecosystem == "gem" and path == GEM_METADATA
            text = unpacked_gem_metadata(data) if is_gem else decoded(data)
            tree.add_metadata(path, text, content_swhid(data))
    if (licence := shard.params["licence"]) and not tree.repository and "" not in tree.by_folder:
        tree.repository.append(LicenceClaim(package.purl, "", licence, "repository", "", None, "recipe", 1.0))
    return tree


def _is_readme(path: str) -> bool:
    return "/" not in path and path.lower().startswith("readme")
