"""The long descriptions of installed packages: prose that their authors wrote about their own work."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import ClassVar

from tilth.corpus.provenance.distributions import Package, installed_packages, licence_tree, packages_fingerprint
from tilth.corpus.provenance.swhid import content_swhid
from tilth.corpus.records import Document, Occurrence, Reject, Shard, document_id, fingerprint, screen
from tilth.corpus.registry import source
from tilth.errors import SourceError

LANGUAGES = {"text/markdown": "Markdown", "text/x-rst": "reStructuredText", "text/plain": "Text"}
HOME_LABELS = ("homepage", "home", "repository", "source", "sourcecode", "github")


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
    media_type = str(headers.get("Description-Content-Type", "")).partition(";")[0].strip().lower()
    meta = {"package": package.name, "summary": str(headers.get("Summary", ""))}
    return Document(
        doc_id=document_id("package description", package.label, swhid), text=text, raw_swhid=swhid, encoding="utf-8",
        extraction="body of METADATA", occurrences=[Occurrence("package", package.label, "METADATA")], url=home_page(headers),
        language=LANGUAGES.get(media_type), meta={key: value for key, value in meta.items() if value}, licences=claims,
    )  # fmt: skip


def description(headers: Message) -> str:
    """The long description: the body, or the field of older metadata with its indentation taken off; empty if there is none."""
    body = str(headers.get_payload()).strip()
    if not body:
        body = "\n".join(
            line.removeprefix("        ").removeprefix("|") for line in str(headers.get("Description", "")).splitlines()
        )
    return "" if body.strip() == "UNKNOWN" else body.strip()


def home_page(headers: Message) -> str | None:
    """The project's home page: `Home-page`, else the Project-URL whose label says so."""
    given = str(headers.get("Home-page", "")).strip()
    if given and given != "UNKNOWN":
        return given
    pairs = (str(value).partition(",") for value in headers.get_all("Project-URL", []))
    urls = {label.strip().lower().replace(" ", "").replace("-", ""): url.strip() for label, _, url in pairs}
    return next((urls[label] for label in HOME_LABELS if urls.get(label)), None)
