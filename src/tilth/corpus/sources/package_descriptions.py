"""The long descriptions of installed packages: prose that their authors wrote about their own work."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from tilth.corpus.provenance.distributions import (
    Package,
    description,
    description_language,
    home_page,
    installed_packages,
    licence_tree,
    packages_fingerprint,
)
from tilth.corpus.provenance.swhid import content_swhid
from tilth.corpus.records import Document, Occurrence, Reject, Shard, document_id, fingerprint, screen
from tilth.corpus.registry import source
from tilth.errors import SourceError


@source
@dataclass(frozen=True)
class PackageDescriptions:
    """One document for each installed distribution but tilth: the body of its METADATA, in the order of names."""

    name: str
    max_bytes: int | None = None
    search_path: tuple[str, ...] = ()

    version: ClassVar[int] = 2
    libraries: ClassVar[tuple[str, ...]] = ("license-expression",)

    def plan(self, digest: Callable[[Path], str] = fingerprint) -> list[Shard]:
        """One shard, fingerprinted by names, versions and metadata. Raises SourceError if nothing is installed."""
        packages = list(installed_packages(self.search_path))
        if not packages:
            raise SourceError(
                "no package is installed here", where=f"PackageDescriptions {self.name}", fix="leave `search_path` empty"
            )
        return [Shard(f"{self.name}/00000", self.name, packages_fingerprint(packages), {"max_bytes": self.max_bytes}, "")]

    def read(self, shard: Shard) -> Iterator[Document | Reject]:
        """Yield a document for every description, a reject for every package that has none."""
        for package in installed_packages(self.search_path):
            yield _row(package)


def _row(package: Package) -> Document | Reject:
    headers = package.headers()
    text = description(headers)
    if unfit := screen(text):
        return Reject(f"{package.label}:METADATA", unfit[0], f"long description: {unfit[1]}")
    swhid = content_swhid(package.metadata)
    claims = licence_tree(package).claims("METADATA", "", swhid)
    meta = {"package": package.name, "summary": str(headers.get("Summary", ""))}
    return Document(
        doc_id=document_id("package description", package.label, swhid), text=text, raw_swhid=swhid, encoding="utf-8",
        extraction="body of METADATA", occurrences=[Occurrence("package", package.label, "METADATA")], url=home_page(headers),
        language=description_language(headers), meta={key: value for key, value in meta.items() if value}, licences=claims,
    )  # fmt: skip
