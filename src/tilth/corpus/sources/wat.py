"""WAT files (Common Crawl's metadata of pages, as ia-web-commons writes them): what a page says of itself, and its links."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from tilth.corpus.formats.archive import ArchivedRecord, Damage, read_archive
from tilth.corpus.locations import find_files, fingerprint_of
from tilth.corpus.provenance.licences import declared_licence
from tilth.corpus.provenance.swhid import content_swhid
from tilth.corpus.reading import share
from tilth.corpus.records import Document, Occurrence, Reject, Shard, document_id, fingerprint, printable, screen
from tilth.corpus.registry import source
from tilth.corpus.web_pages import declared_claims

METADATA = frozenset({"metadata"})
PAGES = ("response", "resource", "arc")
DESCRIPTIONS = ("description", "og:description", "twitter:description", "dc.description")


@source
@dataclass(frozen=True)
class Wat:
    """The text of a row is a page's title, its description and the texts of its links, a line each.

    `meta` holds `title`, `description`, `metas` (JSON: name to content), `links` (JSON: [url, text], the first
    `max_links`) and `n_links`. A row's second occurrence is the page in its WARC, by file name and offset. Metadata of
    requests and of the archive itself are no rows, as such records are none for Warc.
    """

    name: str
    path: str
    max_links: int = 1000
    max_bytes: int | None = None
    max_record_bytes: int = 64 << 20
    licence: str | None = None

    version: ClassVar[int] = 1
    libraries: ClassVar[tuple[str, ...]] = ()

    def plan(self, digest: Callable[[Path], str] = fingerprint) -> list[Shard]:
        """One shard a file, in the order of their paths. Raises SourceError if there is none, or no such licence."""
        where = f"Wat {self.name}"
        params = {
            "max_links": self.max_links, "max_record_bytes": self.max_record_bytes,
            "licence": declared_licence(self.licence, where=where),
        }  # fmt: skip
        files = find_files(self.path, where)
        caps = share(self.max_bytes, [file.size_bytes for file in files])
        return [
            Shard(
                f"{self.name}/{i:05d}", self.name, fingerprint_of(file, digest),
                {"archive": printable(file.name), "max_bytes": cap, **params}, file.location,
            )
            for i, (file, cap) in enumerate(zip(files, caps, strict=True))
        ]  # fmt: skip

    def read(self, shard: Shard) -> Iterator[Document | Reject]:
        """Yield a row for every page described, a reject for every damage. Raises SourceError if the file cannot be read."""
        archive = shard.params["archive"]
        for found in read_archive(shard.location, METADATA, shard.params["max_record_bytes"]):
            if isinstance(found, Damage):
                yield Reject(f"{archive}@{found.place}", found.reason, found.detail)
            elif (row := self._row(found, shard)) is not None:
                yield row

    def _row(self, record: ArchivedRecord, shard: Shard) -> Document | Reject | None:
        archive = shard.params["archive"]
        location = f"{archive}@{record.place}"
        try:
            wat = json.loads(record.block)
        except (ValueError, RecursionError) as error:
            return Reject(location, "bad_record", f"not JSON: {str(error)[:200]}")
        envelope = _dict(wat, "Envelope")
        warc, payload = _dict(envelope, "WARC-Header-Metadata"), _dict(envelope, "Payload-Metadata")
        url = str(warc.get("WARC-Target-URI") or record.headers.get("warc-target-uri", "")).strip("<> ")
        kind = str(warc.get("WARC-Type") or ("arc" if "ARC-Header-Metadata" in envelope else ""))
        if not envelope:
            return Reject(location, "bad_record", f"no Envelope {url}".rstrip())
        if kind not in PAGES:
            return None
        answer = _dict(payload, "HTTP-Response-Metadata")
        page = _dict(answer, "HTML-Metadata")
        status = str(_dict(answer, "Response-Message").get("Status") or "200")
        if not status.startswith("2"):
            return Reject(location, "http_error", f"{status} {url}")
        if not page:
            return Reject(location, "not_html", f"{payload.get('Actual-Content-Type', 'no type')} {url}")
        text, meta = describe(page, shard.params["max_links"])
        if unfit := screen(text):
            return Reject(location, unfit[0], f"{unfit[1]} {url}")
        raw_swhid = content_swhid(record.block)
        container = _dict(wat, "Container")
        seen = [
            Occurrence(
                "wat", archive, url, record_id=record.headers.get("warc-record-id"), offset=record.offset,
                date=record.headers.get("warc-date"),
            )
        ]  # fmt: skip
        if isinstance(container.get("Filename"), str):
            offset = str(container.get("Offset", ""))
            name, date = warc.get("WARC-Record-ID"), warc.get("WARC-Date")
            seen.append(Occurrence(
                "warc", container["Filename"], url, record_id=name if isinstance(name, str) else None,
                offset=int(offset) if offset.isascii() and offset.isdigit() and len(offset) < 19 else None,
                date=date if isinstance(date, str) else None,
            ))  # fmt: skip
        return Document(
            doc_id=document_id("wat", self.name, archive, record.place, raw_swhid), text=text, raw_swhid=raw_swhid,
            encoding="utf-8", extraction="title, description, link texts", occurrences=seen, url=url or None, meta=meta,
            licences=declared_claims(shard.params["licence"], archive, url),
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
        (str(link.get("url") or link.get("href") or ""), _text(link.get("text") or link.get("alt") or link.get("title")))
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


def _text(value: Any) -> str:
    return " ".join(value.split()) if isinstance(value, str) else ""
