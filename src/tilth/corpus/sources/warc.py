"""WARC files (Common Crawl, wget, Heritrix, Browsertrix, our own crawls): one page is one row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any, ClassVar

from tilth.corpus.extract.html import DEFAULT_MODE, TRAFILATURA_MODES, Extractor
from tilth.corpus.file_source import FileSource
from tilth.corpus.formats.archive import ArchivedRecord, Damage, read_archive
from tilth.corpus.formats.archive_formats import WARC, Format
from tilth.corpus.locations import FoundFile
from tilth.corpus.records import Document, Reject, Shard, printable
from tilth.corpus.registry import source
from tilth.corpus.web_pages import KINDS, PageReader
from tilth.errors import SourceError

PACKED = ("", ".gz", ".zst", ".lz4")  # how archives are packed, by the ends of their names in a folder


@source
@dataclass(frozen=True)
class Warc(FileSource):
    """Responses and resources with HTML become the text of their main content; `conversion` records (WET) stay as they are.

    `path` is a file, a glob pattern (`**` descends), a folder, or the same behind a URL (`s3://`, `https://`);
    files may be gzip, zstd (with a dictionary, as Browsertrix writes them), lz4 or plain. Every response,
    resource, conversion, revisit and continuation record is a document or a reject; warcinfo, request and metadata
    records are neither. `extract` is the library: `both` finds the main text better than either and takes less time than
    trafilatura, resiliparse a sixth of it; `documentation` is for sites of generated documentation, whose signatures and code
    it keeps. `extract_options` are the library's, by their names, `formulas` keeps formulas as LaTeX between dollar signs.
    `max_bytes` bounds the UTF-8 bytes of text of all shards together, shared by file size; records above `max_record_bytes`
    and pages that take longer than `max_seconds` of processor time are rejected (0: no limit, and no process for it).
    `licence` is an SPDX expression that you declare for all of it; an archive itself says nothing about licences.
    """

    extract: str = DEFAULT_MODE
    max_record_bytes: int = 64 << 20
    extract_options: Mapping[str, Any] | None = None
    formulas: bool = False
    max_seconds: float = 20.0

    version: ClassVar[int] = 6
    libraries: ClassVar[tuple[str, ...]] = ("resiliparse",)
    suffixes: ClassVar[tuple[str, ...]] = tuple(f".{kind}{packed}" for kind in ("warc", "wet") for packed in PACKED)
    kind: ClassVar[str] = "warc"
    form: ClassVar[Format] = WARC

    def params(self) -> dict[str, Any]:
        """Raises SourceError: no such extraction, or its library is not there."""
        extractor = Extractor(self.extract, dict(self.extract_options or {}), self.formulas)
        extractor.check(self.where)
        params: dict[str, Any] = {
            "extract": self.extract,
            "extract_options": dict(sorted(extractor.options.items())),
            "formulas": self.formulas,
            "max_record_bytes": self.max_record_bytes,
            "max_seconds": self.max_seconds,
        }
        if self.extract in TRAFILATURA_MODES:
            try:
                params["trafilatura"] = version("trafilatura")
            except PackageNotFoundError as error:
                raise SourceError("trafilatura is not there", self.where, "pip install trafilatura lxml_html_clean") from error
        return params

    def rows(self, unit: list[FoundFile], shard: Shard) -> Iterator[Document | Reject]:
        """A row for every page, a reject for every damage. Raises SourceError if the file cannot be read."""
        (file,) = unit
        extractor = Extractor(self.extract, dict(sorted((self.extract_options or {}).items())), self.formulas)
        reader = PageReader(
            self.kind, self.name, printable(file.name), extractor, shard.params["licence"], self.max_record_bytes,
            self.max_seconds,
        )  # fmt: skip
        found = read_archive(file.location, KINDS, self.max_record_bytes, self.form)
        yield from reader.rows(record if isinstance(record, Damage) else self.as_warc(record) for record in found)

    def as_warc(self, record: ArchivedRecord) -> ArchivedRecord:
        """The record with the fields of a WARC record."""
        return record
