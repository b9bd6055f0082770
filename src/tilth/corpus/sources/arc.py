"""ARC files of both versions (Internet Archive before 2009, Common Crawl before 2013): a page is a row."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from tilth.corpus.formats.archive import ArchivedRecord
from tilth.corpus.formats.archive_formats import ARC, ARC_HTTP, Format
from tilth.corpus.registry import source
from tilth.corpus.sources.warc import PACKED, Warc


@source
@dataclass(frozen=True)
class Arc(Warc):
    """Every record but the file's own description is a row, read as Warc reads responses; same fields as Warc.

    What was not fetched by HTTP, or by a version of it without a head, is taken for what its URL line says it is.
    """

    version: ClassVar[int] = 4
    suffixes: ClassVar[tuple[str, ...]] = tuple(f".arc{packed}" for packed in PACKED)
    kind: ClassVar[str] = "arc"
    form: ClassVar[Format] = ARC

    def as_warc(self, record: ArchivedRecord) -> ArchivedRecord:
        """A response where there is an HTTP head, else a resource of the type that the URL line gives."""
        if ARC_HTTP.match(record.block):
            return replace(record, headers={**record.headers, "content-type": "application/http"})
        given = {"content-type": record.headers["arc-content-type"], "warc-type": "resource"}
        return replace(record, kind="resource", headers={**record.headers, **given})
