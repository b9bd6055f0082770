"""HTML files that were saved to disk: documentation as its generator wrote it, mirrors of sites, DevDocs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, ClassVar
from urllib.parse import quote

from tilth.corpus.extract.html import DEFAULT_MODE, TRAFILATURA_MODES, Extractor
from tilth.corpus.extract.http import BodyError
from tilth.corpus.file_source import FileSource
from tilth.corpus.locations import FoundFile, open_raw
from tilth.corpus.provenance.swhid import content_swhid
from tilth.corpus.records import Document, Occurrence, Reject, Shard, document_id, printable, screen
from tilth.corpus.registry import source
from tilth.corpus.web_pages import declared_claims, page_of, read_pages


@source
@dataclass(frozen=True)
class HtmlFiles(FileSource):
    """Each HTML file as the text of its page; `extract="documentation"` for what Sphinx, javadoc, MkDocs and the like write.

    `extract` and `max_seconds` are as `Warc` has them. `base_url` is where the folder was published: a page's `url` is
    that and its path. `licence` is what you declare for all pages; they say nothing themselves.
    """

    extract: str = DEFAULT_MODE
    base_url: str | None = None
    max_file_bytes: int = 16 << 20
    max_seconds: float = 20.0

    version: ClassVar[int] = 1
    libraries: ClassVar[tuple[str, ...]] = ("resiliparse",)
    suffixes: ClassVar[tuple[str, ...]] = (".html", ".htm", ".xhtml")

    def params(self) -> dict[str, Any]:
        """Raises SourceError: no such extraction."""
        Extractor(self.extract).check(self.where)
        params = {"extract": self.extract, "base_url": self.base_url, "max_file_bytes": self.max_file_bytes}
        known = {"trafilatura": version("trafilatura")} if self.extract in TRAFILATURA_MODES else {}
        return {**params, **known, "max_seconds": self.max_seconds}

    def rows(self, unit: list[FoundFile], shard: Shard) -> Iterator[Document | Reject]:
        """The page of a file, or why there is none."""
        (file,) = unit
        with open_raw(file.location, self.where) as raw:
            body = raw.read(self.max_file_bytes + 1)
        name = printable(file.name)
        try:
            if len(body) > self.max_file_bytes:
                raise BodyError("too_large", f"{file.size_bytes} bytes, at most {self.max_file_bytes}")
            (outcome,) = read_pages([(body, (None, Extractor(self.extract)))], self.max_seconds)
            page, encoding = page_of(outcome)
        except BodyError as error:
            yield Reject(name, error.reason, error.detail)
            return
        if unfit := screen(page.text):
            yield Reject(name, *unfit)
            return
        swhid = content_swhid(body)
        yield Document(
            doc_id=document_id("file", self.name, file.name, swhid), text=page.text, raw_swhid=swhid, encoding=encoding,
            extraction=page.tool, occurrences=[Occurrence("file", self.name, file.name)], language=page.language,
            url=f"{self.base_url.rstrip('/')}/{quote(name)}" if self.base_url else None,
            meta={"title": page.title} if page.title else {}, licences=declared_claims(shard.params["licence"], self.name, name),
        )  # fmt: skip
