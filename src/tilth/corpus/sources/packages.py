"""The source code of installed packages, each file one document, every package with its share of the space."""

from __future__ import annotations

import hashlib
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackagePath
from pathlib import Path
from typing import ClassVar

from tilth.corpus.extract.textfile import NotTextError, read_text
from tilth.corpus.languages import detect
from tilth.corpus.provenance.distributions import Package, in_metadata, installed_packages, licence_tree, packages_fingerprint
from tilth.corpus.provenance.licences import LicenceTree
from tilth.corpus.provenance.swhid import content_swhid
from tilth.corpus.records import Document, Occurrence, Reject, Shard, content_document_id, fingerprint
from tilth.corpus.registry import source
from tilth.corpus.sources.folder import read_regular_file
from tilth.errors import SourceError

SUFFIXES = frozenset(
    {".py", ".pyi", ".pyx", ".pxd", ".pxi", ".c", ".h", ".cc", ".cpp", ".hpp", ".cu", ".cuh", ".rs", ".md", ".rst"}
)

Entry = tuple[Package, PackagePath]


@source
@dataclass(frozen=True)
class PackageSource:
    """Source files that RECORD lists, of every installed distribution but tilth, in the order of package names and paths.

    No package takes more than `max_package_bytes`, and where all of them together want more than `max_bytes`
    the largest are cut to one common limit, so that the small ones stay whole. `search_path` reads other
    folders than this environment's.
    """

    name: str
    max_bytes: int | None = 64 << 20
    max_package_bytes: int = 4 << 20
    max_file_bytes: int = 1 << 20
    search_path: tuple[str, ...] = ()

    version: ClassVar[int] = 3
    libraries: ClassVar[tuple[str, ...]] = ("license-expression", "resiliparse")

    def plan(self, digest: Callable[[Path], str] = fingerprint) -> list[Shard]:
        """One shard, fingerprinted by names, versions and RECORDs. Raises SourceError if nothing is installed."""
        packages = list(installed_packages(self.search_path))
        if not packages:
            raise SourceError("no package is installed here", where=f"PackageSource {self.name}", fix="leave `search_path` empty")
        params = {"max_bytes": self.max_bytes, "max_package_bytes": self.max_package_bytes, "max_file_bytes": self.max_file_bytes}
        return [Shard(f"{self.name}/00000", self.name, packages_fingerprint(packages), params, "")]

    def read(self, shard: Shard) -> Iterator[Document | Reject]:
        """Yield a document or a reject for every distinct file content that is within the limits."""
        packages = list(installed_packages(self.search_path))
        wanted = {package.label: _source_files(package) for package in packages}
        demand = {label: min(self.max_package_bytes, sum(file.size or 0 for file in files)) for label, files in wanted.items()}
        limit = common_limit(list(demand.values()), self.max_bytes)
        contents: dict[str, list[Entry]] = {}
        for package in packages:
            for file in _within(wanted[package.label], min(self.max_package_bytes, limit)):
                contents.setdefault(_hash(file), []).append((package, file))
        trees: dict[str, LicenceTree] = {}
        for digest, entries in contents.items():
            for package, _ in entries:
                if package.label not in trees:
                    trees[package.label] = licence_tree(package)
            yield self._row(digest, entries, trees)

    def _row(self, digest: str, entries: list[Entry], trees: dict[str, LicenceTree]) -> Document | Reject:
        package, file = entries[0]
        location = f"{package.label}:{file.as_posix()}"
        try:
            data = read_regular_file(Path(str(file.locate())), self.max_file_bytes)
            if _record_hash(data) != digest:
                raise NotTextError("changed", "the file is not what RECORD says was installed")
            text, encoding = read_text(data)
        except NotTextError as error:
            return Reject(location, error.reason, error.detail)
        except OSError as error:
            return Reject(
                location, "vanished" if isinstance(error, FileNotFoundError) else "unreadable", error.strerror or str(error)
            )
        swhid = content_swhid(data)
        occurrences = [Occurrence("package", package.label, file.as_posix()) for package, file in entries]
        claims = [claim for place in occurrences for claim in trees[place.origin].claims(place.path, text, swhid)]
        return Document(
            doc_id=content_document_id(swhid), text=text, raw_swhid=swhid, encoding=encoding, extraction="as it is",
            occurrences=occurrences, language=detect(file.name, data).language, licences=claims, meta={"package": package.name},
        )  # fmt: skip


def common_limit(demands: list[int], max_total: int | None) -> int:
    """The limit L for which the sum of min(demand, L) is as large as `max_total` allows."""
    left, limit = max_total, max(demands, default=0)
    if left is None or sum(demands) <= left:
        return limit
    for i, demand in enumerate(sorted(demands)):
        n_others = len(demands) - i
        if demand * n_others > left:
            return left // n_others
        left -= demand
    return limit


def _source_files(package: Package) -> list[PackagePath]:
    """Source files below the installation folder, by path; RECORD may name others (scripts, caches)."""
    inside = [file for file in package.files if ".." not in file.parts and not file.is_absolute()]
    chosen = [file for file in inside if file.suffix in SUFFIXES and not in_metadata(file.as_posix())]
    return sorted(chosen, key=lambda file: file.as_posix())


def _within(files: list[PackagePath], limit: int) -> Iterator[PackagePath]:
    """The files that fit, in their order; one that does not fit is passed over for smaller ones."""
    for file in files:
        if (size := file.size or 0) <= limit:
            limit -= size
            yield file


def _hash(file: PackagePath) -> str:
    return file.hash.value if file.hash is not None else ""


def _record_hash(data: bytes) -> str:
    """sha256 as RECORD writes it: URL-safe base64 without padding."""
    return urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode("ascii")
