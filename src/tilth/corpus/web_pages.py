"""Turns an archived record into a document or a reject: the same way for WARC and ARC, with a time limit for each page."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from tilth.corpus.extract.charset import CharsetError, decode_html, decode_text
from tilth.corpus.extract.html import DepthError, Extraction, Extractor, SizeError
from tilth.corpus.extract.http import BodyError, Response, decode_body, parse_response
from tilth.corpus.formats.archive import ArchivedRecord, Damage
from tilth.corpus.provenance.swhid import content_swhid
from tilth.corpus.records import Document, LicenceClaim, Occurrence, Reject, document_id, screen
from tilth.corpus.time_limit import Call, DiedError, Outcome, TooSlowError, calls_limited

HTML_TYPES = frozenset({"text/html", "application/xhtml+xml", "application/vnd.wap.xhtml+xml"})
KINDS = frozenset({"response", "resource", "conversion", "revisit", "continuation"})
MANY_BYTES = 16 << 20
# So many go to the extracting process at a time: waking it costs 0.2 ms, as much as 5 % of a page.
BATCH_BYTES, BATCH_ROWS = 4 << 20, 64
DIGEST_BYTES = {"md5": 16, "sha1": 20, "sha256": 32, "sha512": 64}


@dataclass
class PageReader:
    """Makes the rows of one archive; knows the records before, so that a revisit can be told from a lost page."""

    kind: str  # warc or arc: what the occurrences say
    source: str
    archive: str
    extractor: Extractor
    licence: str | None
    max_record_bytes: int
    max_seconds: float
    seen: dict[bytes, str] = field(default_factory=dict)

    def rows(self, found: Iterable[ArchivedRecord | Damage]) -> Iterator[Document | Reject]:
        """The document of each record, or why it has none, in their order; pages are extracted some at a time."""
        waiting: list[_Page | Document | Reject] = []
        n_bytes = 0
        for record in found:
            row = self._read(record)
            waiting.append(row)
            n_bytes += len(row.body) if isinstance(row, _Page) else len(row.text) if isinstance(row, Document) else 0
            if n_bytes >= BATCH_BYTES or len(waiting) >= BATCH_ROWS:
                yield from self._extracted(waiting)
                waiting, n_bytes = [], 0
        yield from self._extracted(waiting)

    def _read(self, record: ArchivedRecord | Damage) -> _Page | Document | Reject:
        """The row of a record, or the page that is still to be extracted."""
        if isinstance(record, Damage):
            return Reject(f"{self.archive}@{record.place}", record.reason, record.detail)
        url = record.headers.get("warc-target-uri", "").strip("<> ") or None
        place = _Place(f"{self.archive}@{record.place}", url)
        try:
            self._refuse_parts(record)
            content = self._content(record)
        except BodyError as error:
            return place.reject(error.reason, error.detail)
        finally:
            self._remember(record)
        raw_swhid = content_swhid(content.payload)
        occurrence = Occurrence(
            self.kind, self.archive, url or "", record_id=record.headers.get("warc-record-id"), offset=record.offset,
            date=record.headers.get("warc-date"),
        )  # fmt: skip
        row = Document(
            document_id(self.kind, self.source, self.archive, record.place, raw_swhid), content.text, raw_swhid, content.encoding,
            "as archived", [occurrence], url, content.language, {"block_digest": "differs"} if digest_differs(record) else {},
            declared_claims(self.licence, self.archive, url),
        )  # fmt: skip
        return place.screened(row) if content.body is None else _Page(place, row, content.body, content.charset)

    def _extracted(self, rows: list[_Page | Document | Reject]) -> Iterator[Document | Reject]:
        pages = [row for row in rows if isinstance(row, _Page)]
        outcomes = read_pages([(page.body, (page.charset, self.extractor)) for page in pages], self.max_seconds)
        for row in rows:
            yield row.extracted(next(outcomes)) if isinstance(row, _Page) else row

    def _content(self, record: ArchivedRecord) -> _Content:
        if record.kind == "conversion":
            return _from_conversion(record)
        return _from_resource(record) if record.kind == "resource" else _from_response(record, self.max_record_bytes)

    def _refuse_parts(self, record: ArchivedRecord) -> None:
        headers = record.headers
        if record.kind == "revisit":
            raise BodyError("revisit", self._original(record))
        if record.kind == "continuation" or headers.get("warc-segment-number", "1") != "1":
            number, origin = headers.get("warc-segment-number", "?"), headers.get("warc-segment-origin-id", "?")
            raise BodyError("segment", f"segment {number} of {origin}")
        if "warc-segment-number" in headers:
            raise BodyError("segment", "the first segment of several")
        if cut := headers.get("warc-truncated"):
            raise BodyError("truncated", f"WARC-Truncated: {cut}")

    def _remember(self, record: ArchivedRecord) -> None:
        if record.kind in ("response", "resource"):
            for mark in _marks(record, ""):
                self.seen.setdefault(mark, record.place)

    def _original(self, record: ArchivedRecord) -> str:
        """What a revisit refers to (ISO 28500:2017, 6.7), and whether that lies before it in this archive."""
        headers = record.headers
        told = [headers.get(f"warc-refers-to{part}", "") for part in ("", "-target-uri", "-date")]
        place = next((self.seen[mark] for mark in _marks(record, "refers-to") if mark in self.seen), None)
        where = f"that is {self.archive}@{place}" if place else "not before it in this archive"
        profile = headers.get("warc-profile", "").rstrip("/").rpartition("/")[2] or "no profile"
        return f"{profile} of {' '.join(part for part in told if part) or headers.get('warc-payload-digest', '?')}, {where};"


@dataclass(frozen=True)
class _Place:
    """Where a row comes from, as its reject says it."""

    location: str
    url: str | None

    def reject(self, reason: str, detail: str) -> Reject:
        return Reject(self.location, reason, f"{detail} {self.url or ''}".rstrip())

    def screened(self, row: Document) -> Document | Reject:
        unfit = screen(row.text)
        return self.reject(*unfit) if unfit else row


class _Content(NamedTuple):
    """What a record holds: text as it is, or the body of a page from which it is to be taken."""

    payload: bytes
    text: str = ""
    encoding: str = ""
    language: str | None = None
    body: bytes | None = None
    charset: str | None = None


@dataclass(frozen=True)
class _Page:
    """A row that lacks its text, and the body that has it."""

    place: _Place
    row: Document
    body: bytes
    charset: str | None

    def extracted(self, outcome: Outcome) -> Document | Reject:
        """The row with its text, or why there is none. Raises what has nothing to do with the page."""
        try:
            page, encoding = page_of(outcome)
        except BodyError as error:
            return self.place.reject(error.reason, error.detail)
        meta = {"title": page.title} if page.title else {}
        if page.n_formulas:
            meta["n_formulas"] = str(page.n_formulas)
        row = replace(
            self.row, text=page.text, encoding=encoding, extraction=page.tool, language=page.language, meta=meta | self.row.meta
        )
        return self.place.screened(row)


def _from_response(record: ArchivedRecord, max_bytes: int) -> _Content:
    wrapped = record.headers.get("content-type", "application/http")
    if not wrapped.lower().startswith("application/http"):
        raise BodyError("not_html", f"not an HTTP response: {wrapped[:80]}")  # DNS answers, FTP files
    response = parse_response(record.block)
    media_type, charset = content_type(response)
    if not 200 <= response.status < 300:
        raise BodyError("http_error", f"{response.status} {response.phrase}".strip())
    body = decode_body(response, max_bytes)
    if not body.strip():
        raise BodyError("empty", "no body")
    if media_type not in HTML_TYPES and not (media_type == "" and looks_like_html(body)):
        raise BodyError("not_html", media_type or "no content type")
    return _Content(response.body, body=body, charset=charset)


def _from_resource(record: ArchivedRecord) -> _Content:
    """A file that was archived as it is: HTML becomes its main text, plain text stays."""
    if not record.block.strip():
        raise BodyError("empty", "no content")
    if record.headers.get("warc-target-uri", "").strip("<> ").startswith("metadata:"):
        raise BodyError("not_html", "a record of the crawler about itself")
    media_type, charset = parse_content_type(record.headers.get("content-type", ""))
    if media_type in HTML_TYPES or (media_type == "" and looks_like_html(record.block)):
        return _Content(record.block, body=record.block, charset=charset)
    if media_type != "text/plain":
        raise BodyError("not_html", media_type or "no content type")
    try:
        text, encoding = decode_html(record.block, charset) if charset else decode_text(record.block)
    except CharsetError as error:
        raise BodyError("decode", str(error)) from None
    return _Content(record.block, text, encoding)


def _from_conversion(record: ArchivedRecord) -> _Content:
    media_type, _ = parse_content_type(record.headers.get("content-type", "text/plain"))
    if media_type != "text/plain":
        raise BodyError("not_text", media_type)
    try:
        text = record.block.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BodyError("decode", f"not UTF-8 at byte {error.start}") from None
    language = record.headers.get("warc-identified-content-language", "").partition(",")[0].strip() or None
    return _Content(record.block, text, "utf-8", language)


def read_pages(calls: Sequence[Call], max_seconds: float) -> Iterator[Outcome]:
    """`read_page` for each call, in a process of its own that ends after `max_seconds`; in this one where that is 0."""
    return iter(calls_limited(READ_PAGE, calls, max_seconds) if max_seconds > 0 else map(_read_here, calls))


def page_of(outcome: Outcome) -> tuple[Extraction, str]:
    """(extraction, encoding). Raises BodyError for whatever made it impossible: too_slow, crashed, what `read_page` raises."""
    try:
        page, encoding = outcome.get()
    except TooSlowError as error:
        raise BodyError("too_slow", f"extraction took {error}") from None
    except DiedError as error:
        raise BodyError("crashed", f"extraction: {error}") from None
    return page, encoding


def _read_here(call: Call) -> Outcome:
    """Without a limit, and without a process for it."""
    try:
        return Outcome(read_page(call[0], *call[1]))
    except BodyError as error:
        return Outcome(None, error)


READ_PAGE = "tilth.corpus.web_pages:read_page"


def read_page(body: bytes, charset: str | None, extractor: Extractor) -> tuple[Extraction, str]:
    """(extraction, encoding) of a page's bytes. Raises BodyError: decode, too_deep, too_large, bad_record."""
    try:
        characters, encoding = decode_html(body, charset)
        return extractor.extract(characters), encoding
    except CharsetError as error:
        raise BodyError("decode", str(error)) from None
    except DepthError as error:
        raise BodyError("too_deep", str(error)) from None
    except SizeError as error:
        raise BodyError("too_large", str(error)) from None
    except (MemoryError, ImportError):
        raise
    except Exception as error:  # the libraries raise whatever their parsers do
        if len(body) > MANY_BYTES:  # resiliparse says of a page for which there is no memory that it cannot be parsed
            raise BodyError("too_large", f"{len(body)} bytes of HTML: {type(error).__name__} {error}"[:200]) from None
        raise BodyError("bad_record", f"HTML: {type(error).__name__} {error}"[:200]) from None


def declared_claims(licence: str | None, archive: str, url: str | None) -> list[LicenceClaim]:
    """The claim that a recipe makes for all pages of an archive."""
    return [LicenceClaim(archive, url or "", licence, "declared", "", None, "recipe", 1.0, effective=True)] if licence else []


def content_type(response: Response) -> tuple[str, str | None]:
    """The media type in lower case (empty if not given) and the charset of an HTTP response."""
    return parse_content_type(response.headers.get("content-type", ""))


def parse_content_type(value: str) -> tuple[str, str | None]:
    """`Text/HTML; charset="x"` as (text/html, x); no charset is None."""
    media_type, *params = value.split(";")
    charsets = [
        value.strip(" \"'") for name, _, value in (param.partition("=") for param in params) if name.strip().lower() == "charset"
    ]
    return media_type.strip().lower(), charsets[0] if charsets else None


def looks_like_html(body: bytes) -> bool:
    """Whether a body without content type begins like HTML (a subset of WHATWG MIME Sniffing, 7.1)."""
    head = body[:1024].lstrip(b"\xef\xbb\xbf \t\r\n\f").lower()
    return head.startswith((b"<!doctype html", b"<html", b"<head", b"<body", b"<title"))


def digest_differs(record: ArchivedRecord) -> bool:
    """Whether a block is not what its WARC-Block-Digest says; no if it says nothing that can be checked."""
    name, _, value = record.headers.get("warc-block-digest", "").strip().partition(":")
    name = name.strip().lower().replace("-", "")
    n_bytes = DIGEST_BYTES.get(name)
    told = _digest_bytes(value.strip(), n_bytes) if n_bytes else None
    return told is not None and hashlib.new(name, record.block, usedforsecurity=False).digest() != told


def _digest_bytes(value: str, n_bytes: int) -> bytes | None:
    """A digest in hexadecimal, base32 or base64: all three are written."""
    readers = (bytes.fromhex, lambda text: base64.b32decode(text.upper()), lambda text: base64.b64decode(text, validate=True))
    for reader in readers:
        try:
            found = reader(value)
        except ValueError:
            continue
        if len(found) == n_bytes:
            return found
    return None


def _marks(record: ArchivedRecord, refers: str) -> list[bytes]:
    """Short hashes of what names the record, or the one that it refers to: its id, its URL and payload digest."""
    headers = record.headers
    name = headers.get("warc-refers-to" if refers else "warc-record-id", "")
    url = (headers.get("warc-refers-to-target-uri") if refers else None) or headers.get("warc-target-uri", "")
    payload = headers.get("warc-payload-digest", "")
    found = [name, *([f"{url.strip('<> ')} {payload}"] if payload else [])]
    return [hashlib.blake2b(mark.encode(), digest_size=8).digest() for mark in found if mark]
