"""WAT files (Common Crawl's metadata of pages, as ia-web-commons writes them): what a page says of itself, and its links."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from tilth.corpus.attempts import MAX_SECONDS, Refused, attempt
from tilth.corpus.file_source import FileSource
from tilth.corpus.formats.archive import ArchivedRecord, Damage, read_archive
from tilth.corpus.locations import FoundFile
from tilth.corpus.provenance.swhid import content_swhid
from tilth.corpus.records import Document, Occurrence, Reject, Shard, document_id, printable, screen
from tilth.corpus.registry import source
from tilth.corpus.sources.warc import PACKED
from tilth.corpus.web_pages import declared_claims

METADATA = frozenset({"metadata"})
PAGES = ("response", "resource", "arc")
LONG_BYTES = 1 << 20  # longer metadata is parsed in a process of its own: objects of JSON take up to 30 times its bytes
DESCRIPTIONS = ("description", "og:description", "twitter:description", "dc.description")


@source
@dataclass(frozen=True)
class Wat(FileSource):
    """The text of a row is a page's title, its description and the texts of its links, a line each.

    `meta` holds `title`, `description`, `metas` (JSON: name to content), `links` (JSON: [url, text], the first
    `max_links`) and `n_links`. A row's second occurrence is the page in its WARC, by file name and offset. Metadata of
    requests and of the archive itself are no rows, as such records are none for Warc.
    """

    max_links: int = 1000
    max_record_bytes: int = 64 << 20

    version: ClassVar[int] = 2
    suffixes: ClassVar[tuple[str, ...]] = tuple(f".wat{packed}" for packed in PACKED)

    def params(self) -> dict[str, Any]:
        """The limits."""
        return {"max_links": self.max_links, "max_record_bytes": self.max_record_bytes}

    def rows(self, unit: list[FoundFile], shard: Shard) -> Iterator[Document | Reject]:
        """A row for every page described, a reject for every damage. Raises SourceError if the file cannot be read."""
        (file,) = unit
        archive = printable(file.name)
        for found in read_archive(file.location, METADATA, self.max_record_bytes):
            if isinstance(found, Damage):
                yield Reject(f"{archive}@{found.place}", found.reason, found.detail)
            elif (row := self._row(found, archive, shard.params["licence"])) is not None:
                yield row

    def _row(self, record: ArchivedRecord, archive: str, licence: str | None) -> Document | Reject | None:
        if len(record.block) <= LONG_BYTES:
            return read_metadata(record.block, replace(record, block=b""), self, archive, licence)
        given = (replace(record, block=b""), self, archive, licence)
        row = attempt(f"{__name__}:read_metadata", record.block, *given, max_seconds=MAX_SECONDS)
        return Reject(f"{archive}@{record.place}", *row) if isinstance(row, Refused) else row


def read_metadata(
    block: bytes, record: ArchivedRecord, source: Wat, archive: str, licence: str | None
) -> Document | Reject | None:  # fmt: skip
    """The row of a record (given without its block); None for metadata of what is no page."""
    location = f"{archive}@{record.place}"
    try:
        wat = json.loads(block)
    except (ValueError, RecursionError) as error:
        return Reject(location, "bad_record", f"not JSON: {str(error)[:200]}")
    envelope = _dict(wat, "Envelope")
    warc, payload = _dict(envelope, "WARC-Header-Metadata"), _dict(envelope, "Payload-Metadata")
    url = (_plain(warc.get("WARC-Target-URI")) or record.headers.get("warc-target-uri", "")).strip("<> ")
    kind = _plain(warc.get("WARC-Type")) or ("arc" if "ARC-Header-Metadata" in envelope else "")
    if not envelope:
        return Reject(location, "bad_record", f"no Envelope {url}".rstrip())
    if kind not in PAGES:
        return None
    answer = _dict(payload, "HTTP-Response-Metadata")
    page = _dict(answer, "HTML-Metadata")
    status = _plain(_dict(answer, "Response-Message").get("Status")) or "200"
    if not status.startswith("2"):
        return Reject(location, "http_error", f"{status} {url}")
    if not page:
        return Reject(location, "not_html", f"{_plain(payload.get('Actual-Content-Type')) or 'no type'} {url}")
    text, meta = describe(page, source.max_links)
    if unfit := screen(text):
        return Reject(location, unfit[0], f"{unfit[1]} {url}")
    raw_swhid = content_swhid(block)
    container = _dict(wat, "Container")
    seen = [
        Occurrence(
            "wat", archive, url, record_id=record.headers.get("warc-record-id"), offset=record.offset,
            date=record.headers.get("warc-date"),
        )
    ]  # fmt: skip
    if isinstance(container.get("Filename"), str):
        offset = _plain(container.get("Offset"))
        name, date = warc.get("WARC-Record-ID"), warc.get("WARC-Date")
        seen.append(Occurrence(
            "warc", container["Filename"], url, record_id=name if isinstance(name, str) else None,
            offset=int(offset) if offset.isascii() and offset.isdigit() and len(offset) < 19 else None,
            date=date if isinstance(date, str) else None,
        ))  # fmt: skip
    return Document(
        doc_id=document_id("wat", source.name, archive, record.place, raw_swhid), text=text, raw_swhid=raw_swhid,
        encoding="utf-8", extraction="title, description, link texts", occurrences=seen, url=url or None, meta=meta,
        licences=declared_claims(licence, archive, url),
    )  # fmt: skip


def describe(page: dict[str, Any], max_links: int) -> tuple[str, dict[str, str]]:
    """(text, meta) of an `HTML-Metadata` object; whatever in it is not what it should be is left out."""
    head = _dict(page, "Head")
    title = _text(head.get("Title"))
    metas: dict[str, str] = {}
    for meta in _dicts(head.get("Metas")):
        name = next((_text(meta.get(key)).lower() for key in ("name", "property", "http-equiv", "itemprop") if meta.get(key)), "")
        if name and isinstance(meta.get("content"), str):
            metas.setdefault(name, _text(meta["content"]))
    description = next((metas[name] for name in DESCRIPTIONS if metas.get(name)), "")
    links = [
        (_plain(link.get("url") or link.get("href")), _text(link.get("text") or link.get("alt") or link.get("title")))
        for link in [*_dicts(head.get("Link")), *_dicts(page.get("Links"))]
    ]
    said = dict.fromkeys(text for text in (title, description, *(text for _, text in links)) if text)
    found = {
        "title": title, "description": description, "n_links": str(len(links)),
        "metas": json.dumps(metas, ensure_ascii=False) if metas else "",
        "links": json.dumps(links[:max_links], ensure_ascii=False) if links else "",
    }  # fmt: skip
    return "\n".join(said), {key: value for key, value in found.items() if value}


def _dict(value: Any, key: str) -> dict[str, Any]:
    found = value.get(key) if isinstance(value, dict) else None
    return found if isinstance(found, dict) else {}


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [part for part in value if isinstance(part, dict)] if isinstance(value, list) else []


def _plain(value: Any) -> str:
    """A string or number as text; empty for what should be one and is not."""
    return str(value) if isinstance(value, str | int | float) else ""


def _text(value: Any) -> str:
    return " ".join(value.split()) if isinstance(value, str) else ""
