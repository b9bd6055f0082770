"""WARC files (Common Crawl, wget, Heritrix, our own crawls): one file is one shard, one response or conversion record one row."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from tilth.corpus.archive import ArchivedRecord, Damage, read_archive
from tilth.corpus.extract.charset import CharsetError, decode_html
from tilth.corpus.extract.html import MODES, DepthError, extract_html
from tilth.corpus.extract.http import BodyError, Response, decode_body, parse_response
from tilth.corpus.licences import declared_licence
from tilth.corpus.reading import share
from tilth.corpus.records import Document, LicenceClaim, Occurrence, Reject, Shard, document_id, fingerprint, screen
from tilth.corpus.registry import source
from tilth.corpus.swhid import content_swhid
from tilth.errors import SourceError

KINDS = frozenset({"response", "conversion"})
HTML_TYPES = frozenset({"text/html", "application/xhtml+xml", "application/vnd.wap.xhtml+xml"})


@source
@dataclass(frozen=True)
class Warc:
    """Responses with HTML become the text of their main content; `conversion` records (WET) stay as they are.

    `path` is a file or a glob pattern (`**` descends). `max_bytes` bounds the UTF-8 bytes of text of
    all shards together, shared by file size; records above `max_record_bytes` are rejected. `licence` is
    an SPDX expression that you declare for all of it; an archive itself says nothing about licences.
    """

    name: str
    path: str
    extract: str = "resiliparse"
    max_bytes: int | None = None
    max_record_bytes: int = 64 << 20
    licence: str | None = None

    version: ClassVar[int] = 2
    libraries: ClassVar[tuple[str, ...]] = ("fastwarc", "resiliparse")

    def plan(self, digest: Callable[[Path], str] = fingerprint) -> list[Shard]:
        """One shard a file, in the order of their paths. Raises SourceError if there is none, no such extraction or licence."""
        if self.extract not in MODES:
            raise SourceError(
                f"unknown extraction `{self.extract}`", where=f"Warc {self.name}", fix=f"one of: {', '.join(MODES)}"
            )
        root, files = find_archives(self.path, self.name)
        caps = share(self.max_bytes, [file.stat().st_size for file in files])
        return [
            Shard(f"{self.name}/{i:05d}", self.name, digest(file), self._params(file.relative_to(root), cap), str(file))
            for i, (file, cap) in enumerate(zip(files, caps, strict=True))
        ]

    def _params(self, archive: Path, cap: int | None) -> dict[str, object]:
        return {
            "archive": archive.as_posix(),
            "extract": self.extract,
            "max_bytes": cap,
            "max_record_bytes": self.max_record_bytes,
            "licence": declared_licence(self.licence, where=f"Warc {self.name}"),
        }

    def read(self, shard: Shard) -> Iterator[Document | Reject]:
        """Yield a row for every response and conversion record, a reject for every damage. Raises SourceError if unreadable."""
        archive = shard.params["archive"]
        try:
            for found in read_archive(Path(shard.location), KINDS, self.max_record_bytes):
                if isinstance(found, Damage):
                    yield Reject(f"{archive}@{found.offset}", found.reason, found.detail)
                else:
                    yield self._row(found, archive, shard.params["licence"])
        except OSError as error:
            raise SourceError(
                f"cannot read the archive: {error.strerror}", where=shard.location, fix="is it still there?"
            ) from error

    def _row(self, record: ArchivedRecord, archive: str, licence: str | None) -> Document | Reject:
        url = record.headers.get("warc-target-uri", "").strip("<> ") or None
        location = f"{archive}@{record.offset}"
        try:
            if cut := record.headers.get("warc-truncated"):
                raise BodyError("truncated", f"WARC-Truncated: {cut}")
            convert = self._from_response if record.kind == "response" else _from_conversion
            text, payload, fields = convert(record)
        except BodyError as error:
            return Reject(location, error.reason, f"{error.detail} {url or ''}".rstrip())
        if unfit := screen(text):
            return Reject(location, unfit[0], f"{unfit[1]} {url or ''}".rstrip())
        raw_swhid = content_swhid(payload)
        occurrence = Occurrence(
            "warc", archive, url or "", record_id=record.headers.get("warc-record-id"), offset=record.offset,
            date=record.headers.get("warc-date"),
        )  # fmt: skip
        doc_id = document_id("warc", self.name, archive, str(record.offset), raw_swhid)
        claims = (
            [LicenceClaim(archive, url or "", licence, "declared", "", None, "recipe", 1.0, effective=True)] if licence else []
        )
        return Document(
            doc_id=doc_id, text=text, raw_swhid=raw_swhid, occurrences=[occurrence], url=url, licences=claims, **fields
        )

    def _from_response(self, record: ArchivedRecord) -> tuple[str, bytes, dict[str, Any]]:
        wrapped = record.headers.get("content-type", "application/http")
        if not wrapped.lower().startswith("application/http"):
            raise BodyError("not_html", f"not an HTTP response: {wrapped[:80]}")  # DNS answers, FTP files
        response = parse_response(record.block)
        media_type, charset = content_type(response)
        if not 200 <= response.status < 300:
            raise BodyError("http_error", f"{response.status} {response.phrase}".strip())
        body = decode_body(response, self.max_record_bytes)
        if not body.strip():
            raise BodyError("empty", "no body")
        if media_type not in HTML_TYPES and not (media_type == "" and looks_like_html(body)):
            raise BodyError("not_html", media_type or "no content type")
        try:
            characters, encoding = decode_html(body, charset)
            page = extract_html(characters, self.extract)
        except CharsetError as error:
            raise BodyError("decode", str(error)) from None
        except DepthError as error:
            raise BodyError("too_deep", str(error)) from None
        except ValueError as error:
            raise BodyError("bad_record", f"HTML: {error}") from None
        meta = {"title": page.title} if page.title else {}
        fields = {"encoding": encoding, "extraction": page.tool, "language": page.language, "meta": meta}
        return page.text, response.body, fields


def _from_conversion(record: ArchivedRecord) -> tuple[str, bytes, dict[str, Any]]:
    media_type = record.headers.get("content-type", "text/plain").partition(";")[0].strip().lower()
    if media_type != "text/plain":
        raise BodyError("not_text", media_type)
    try:
        text = record.block.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BodyError("decode", f"not UTF-8 at byte {error.start}") from None
    language = record.headers.get("warc-identified-content-language", "").partition(",")[0].strip() or None
    return text, record.block, {"encoding": "utf-8", "extraction": "as archived", "language": language, "meta": {}}


def content_type(response: Response) -> tuple[str, str | None]:
    """The media type in lower case (empty if not given) and the charset of an HTTP response."""
    media_type, *params = response.headers.get("content-type", "").split(";")
    charsets = [
        value.strip(" \"'") for name, _, value in (param.partition("=") for param in params) if name.strip().lower() == "charset"
    ]
    return media_type.strip().lower(), charsets[0] if charsets else None


def looks_like_html(body: bytes) -> bool:
    """Whether a body without content type begins like HTML (a subset of WHATWG MIME Sniffing, 7.1)."""
    head = body[:1024].lstrip(b"\xef\xbb\xbf \t\r\n\f").lower()
    return head.startswith((b"<!doctype html", b"<html", b"<head", b"<body", b"<title"))


def find_archives(pattern: str, name: str) -> tuple[Path, list[Path]]:
    """Return the folder that names are relative to, and the files. Raises SourceError if there is no file."""
    expanded = os.path.expanduser(pattern)
    found = [expanded] if os.path.isfile(expanded) else glob.glob(expanded, recursive=True)
    files = sorted(Path(file) for file in found if os.path.isfile(file))
    if not files:
        raise SourceError(
            "no WARC file is there",
            where=f"Warc {name}: {pattern}",
            fix="give the path of a file, or a pattern such as crawl/*.warc.gz",
        )
    return Path(os.path.commonpath([file.parent for file in files])), files
