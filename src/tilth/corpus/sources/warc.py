"""WARC files (Common Crawl, wget, Heritrix, Browsertrix, our own crawls): one file is one shard, one page one row."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, ClassVar

from tilth.corpus.extract.html import Extractor
from tilth.corpus.formats.archive import ArchivedRecord, Damage, read_archive
from tilth.corpus.formats.archive_formats import WARC, Format
from tilth.corpus.locations import find_files, fingerprint_of
from tilth.corpus.provenance.licences import declared_licence
from tilth.corpus.reading import share
from tilth.corpus.records import Document, Reject, Shard, fingerprint, printable
from tilth.corpus.registry import source
from tilth.corpus.web_pages import KINDS, PageReader
from tilth.errors import SourceError


@source
@dataclass(frozen=True)
class Warc:
    """Responses and resources with HTML become the text of their main content; `conversion` records (WET) stay as they are.

    `path` is a file, a glob pattern (`**` descends), a folder, or the same behind a URL (`s3://`, `https://`);
    files may be gzip, zstd (with a dictionary, as Browsertrix writes them), lz4 or plain. Every response,
    resource, conversion, revisit and continuation record is a document or a reject; warcinfo, request and metadata
    records are neither. `extract` is the library (as good as trafilatura, six times faster, resiliparse is the
    default; `both` is better than either and as slow as the slower), `extract_options` its options by their names, `formulas`
    keeps formulas as LaTeX between dollar signs. `max_bytes` bounds the UTF-8 bytes of text of all shards together, shared
    by file size; records above `max_record_bytes` and pages that take longer than `max_seconds` of processor time are
    rejected (0: no limit, and no process for it). `licence` is an SPDX expression that you declare for
    all of it; an archive itself says nothing about licences.
    """

    name: str
    path: str
    extract: str = "resiliparse"
    max_bytes: int | None = None
    max_record_bytes: int = 64 << 20
    licence: str | None = None
    extract_options: Mapping[str, Any] | None = None
    formulas: bool = False
    max_seconds: float = 20.0

    version: ClassVar[int] = 3
    libraries: ClassVar[tuple[str, ...]] = ("resiliparse",)
    kind: ClassVar[str] = "warc"
    form: ClassVar[Format] = WARC

    def plan(self, digest: Callable[[Path], str] = fingerprint) -> list[Shard]:
        """One shard a file, in the order of their paths. Raises SourceError if there is none, no such extraction or licence."""
        params = self._params()
        files = find_files(self.path, self._where)
        caps = share(self.max_bytes, [file.size_bytes for file in files])
        return [
            Shard(
                f"{self.name}/{i:05d}", self.name, fingerprint_of(file, digest),
                {"archive": printable(file.name), "max_bytes": cap, **params}, file.location,
            )
            for i, (file, cap) in enumerate(zip(files, caps, strict=True))
        ]  # fmt: skip

    @property
    def _where(self) -> str:
        return f"{type(self).__name__} {self.name}"

    def _params(self) -> dict[str, object]:
        extractor = Extractor(self.extract, dict(self.extract_options or {}), self.formulas)
        extractor.check(self._where)
        params: dict[str, object] = {
            "extract": self.extract,
            "extract_options": dict(sorted(extractor.options.items())),
            "formulas": self.formulas,
            "max_record_bytes": self.max_record_bytes,
            "max_seconds": self.max_seconds,
            "licence": declared_licence(self.licence, where=self._where),
        }
        if self.extract in ("trafilatura", "both"):
            try:
                params["trafilatura"] = version("trafilatura")
            except PackageNotFoundError as error:
                raise SourceError("trafilatura is not there", self._where, "pip install trafilatura lxml_html_clean") from error
        return params

    def read(self, shard: Shard) -> Iterator[Document | Reject]:
        """Yield a row for every page, a reject for every damage. Raises SourceError if the file cannot be read."""
        params = shard.params
        extractor = Extractor(params["extract"], params["extract_options"], params["formulas"])
        reader = PageReader(
            self.kind, self.name, params["archive"], extractor, params["licence"], params["max_record_bytes"],
            params["max_seconds"],
        )  # fmt: skip
        for found in read_archive(shard.location, KINDS, params["max_record_bytes"], self.form):
            if isinstance(found, Damage):
                yield Reject(f"{reader.archive}@{found.place}", found.reason, found.detail)
            else:
                yield reader.row(self.as_warc(found))

    def as_warc(self, record: ArchivedRecord) -> ArchivedRecord:
        """The record with the fields of a WARC record."""
        return record
