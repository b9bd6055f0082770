"""MediaWiki XML exports (Wikipedia dumps and those of any other wiki): a page, or with `history` a revision, is one row."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import Any, ClassVar
from urllib.parse import quote, urlsplit

from tilth.corpus.attempts import MAX_SECONDS, Pending, finished
from tilth.corpus.extract.wikitext import TOOL, Wiki
from tilth.corpus.file_source import FileSource
from tilth.corpus.formats.compressed import CompressedError, UnpackedFile, UnpackLimits, unpack
from tilth.corpus.formats.xml_stream import XmlDamage, XmlElement, XmlRecords, read_xml
from tilth.corpus.locations import FoundFile, find_files, open_raw
from tilth.corpus.provenance.swhid import content_swhid
from tilth.corpus.records import Document, LicenceClaim, Occurrence, Reject, Shard, document_id, printable, screen
from tilth.corpus.registry import source
from tilth.errors import SourceError

# export-0.3 to 0.11: a page has a title, an id, perhaps ns, redirect, and its revisions; names have not changed since.
EXPORT = XmlRecords("mediawiki", frozenset({"siteinfo", "page", "revision"}), restart="page")
# Whose text is published under CC BY-SA 4.0 (Wikimedia's Terms of Use, 7; Wikinews has other terms).
WIKIMEDIA = re.compile(
    r"(?:.+\.)?(?:wikipedia|wiktionary|wikibooks|wikiquote|wikisource|wikiversity|wikivoyage|wikimedia|wikidata|mediawiki)\.org$"
)
WIKIMEDIA_LICENCE = "CC-BY-SA-4.0"
LIMITS = UnpackLimits()
SUFFIXES = (".xml", ".xml.bz2", ".xml.gz", ".xml.xz", ".xml.zst", ".xml.lz4")
MULTISTREAM = re.compile(r"-multistream(\d*)\.xml((?:-p\d+p\d+)?)\.bz2$")
INDEX = re.compile(r".*-multistream-index\d*\.txt.*", re.DOTALL)
NOT_WIKITEXT = "not_wikitext"
WIKITEXT_TO_TEXT = "tilth.corpus.extract.wikitext:wikitext_to_text"
FILE_SPACES, CATEGORY_SPACES = ("6", "-2"), ("14",)
REDIRECT = re.compile(r"\s*#[^\s\[#]{4,30}\s*:?\s*\[\[([^\[\]\n|]+)")  # export 0.3 has no redirect element


@dataclass(frozen=True)
class Site:
    """What an export says of its wiki; empty where it says nothing."""

    base: str = ""
    dbname: str = ""
    language: str = ""
    wiki: Wiki = field(default_factory=Wiki)
    spaces: tuple[tuple[str, str], ...] = ()  # (name in lower case, key), for exports without <ns>


@source
@dataclass(frozen=True)
class MediaWikiDump(FileSource):
    """The wikitext pages of an export, as plain text.

    `path` is a file, a folder, a glob pattern or a URL: XML, plain or as gz, bz2, xz, zst, lz4, whole or damaged. Only pages of
    `namespaces` are rows; of these, redirects and other models than wikitext become rejects. With `history` every
    revision is a row, else the newest of each page. `licence` is an SPDX expression for all text, by
    default CC-BY-SA-4.0 where the export names a wiki of Wikimedia. Where a multistream index lies beside a
    file, the file is divided into shards of about `shard_bytes` packed bytes. `max_bytes` bounds the UTF-8
    bytes of text of all shards together; pages above `max_page_chars` of wikitext are rejected.
    """

    namespaces: tuple[int, ...] = (0,)
    history: bool = False
    tables: bool = True
    max_page_chars: int = 8 << 20
    max_seconds: float = MAX_SECONDS

    version: ClassVar[int] = 2
    suffixes: ClassVar[tuple[str, ...]] = SUFFIXES

    def files(self) -> list[FoundFile]:
        """The exports, those with a multistream index in parts. Raises SourceError if there is none, or an index is none."""
        found = [file for file in super().files() if not INDEX.fullmatch(file.name)]
        ranges = [(file, bounds) for file in found for bounds in stream_ranges(file, self.shard_bytes)]
        return [replace(file, start=start, end=end) for file, (start, end) in ranges]

    def params(self) -> dict[str, Any]:
        """Which pages, how, and the limits."""
        return {
            "namespaces": sorted(set(self.namespaces)), "history": self.history, "tables": self.tables,
            "max_page_chars": self.max_page_chars, "max_seconds": self.max_seconds,
        }  # fmt: skip

    def rows(self, unit: list[FoundFile], shard: Shard) -> Iterator[Document | Reject]:
        """A row for every chosen page (or revision), a reject for every damage. Raises SourceError if unreadable."""
        (file,) = unit
        yield from finished(_Reading(self, file, shard.params["licence"]).rows(), WIKITEXT_TO_TEXT, self.max_seconds)


class _Reading:
    """One file, or a part of it, while it is read."""

    def __init__(self, source: MediaWikiDump, file: FoundFile, licence: str | None) -> None:
        self.source, self.file, self.licence = source, file, licence
        self.archive = printable(file.name)
        self.spaces = {str(key) for key in source.namespaces}
        self.site = Site()
        self.newest: tuple[str, XmlElement] | None = None  # of the page that is open: its timestamp and revision
        self.n_revisions = 0
        self.seen: Counter[str] = Counter()

    def rows(self) -> Iterator[Pending | Reject]:
        start, end = self.file.start, self.file.end
        if start > 0:
            self.site = self._site_at_the_top()
        n_rows = 0
        with open_raw(self.file.location) as file:
            for found in read_xml(unpack(file, start, end, LIMITS), EXPORT, start > 0, end is not None):
                for row in self._take(found):
                    n_rows += 1
                    yield row
        if not n_rows and start == 0 and end is None:
            others = ", ".join(f"{count} in {space}" for space, count in sorted(self.seen.items())) or "no page at all"
            yield Reject(self.archive, "empty", f"no page in namespaces {', '.join(sorted(self.spaces))}: {others}")

    def _site_at_the_top(self) -> Site:
        with open_raw(self.file.location) as file:
            for found in read_xml(unpack(file, limits=LIMITS), EXPORT):
                if isinstance(found, XmlElement):
                    return site_of(found) if found.name == "siteinfo" else Site()
        return Site()

    def _take(self, found: XmlElement | XmlDamage) -> Iterator[Pending | Reject]:
        if isinstance(found, XmlDamage):
            self.newest, self.n_revisions = None, 0
            yield Reject(f"{self.archive}@{found.offset}", found.reason, found.detail + (" (packed)" if found.packed else ""))
        elif found.name == "siteinfo":
            self.site = site_of(found)
        elif found.name == "revision":
            page = found.parent
            if page is None or page.name != "page" or self._space(page) not in self.spaces:
                return
            self.n_revisions += 1
            if self.source.history:
                yield self._row(page, found)
                return
            stamp = found.child_text("timestamp")
            if self.newest is None or stamp >= self.newest[0]:
                self.newest = stamp, found
        elif found.name == "page":
            yield from self._page(found)

    def _page(self, page: XmlElement) -> Iterator[Pending | Reject]:
        space = self._space(page)
        self.seen[space] += 1
        newest, n_revisions = self.newest, self.n_revisions
        self.newest, self.n_revisions = None, 0
        if space not in self.spaces:
            return
        if newest is not None:
            yield self._row(page, newest[1])
        elif not n_revisions:
            yield Reject(f"{self.archive}@{page.offset}", "empty", f"no revision: {page.child_text('title')}")

    def _space(self, page: XmlElement) -> str:
        """The key of the namespace; exports before 0.6 do not name it, the title does."""
        if space := page.child_text("ns"):
            return space
        prefix, colon, _ = page.child_text("title").partition(":")
        return dict(self.site.spaces).get(prefix.lower(), "0") if colon else "0"

    def _row(self, page: XmlElement, revision: XmlElement) -> Pending | Reject:
        title = page.child_text("title")
        location = f"{self.archive}@{revision.offset} {title}"
        text_element = revision.child("text")
        source_text = text_element.text if text_element else ""
        problem = self._problem(page, revision, text_element, source_text)
        if problem is not None:
            return Reject(location, *problem)
        given = (source_text, self.site.wiki, title, self.source.tables)
        return Pending(location, given, len(source_text), partial(self._document, location, page, revision, source_text))

    def _document(
        self, location: str, page: XmlElement, revision: XmlElement, source_text: str, text: str
    ) -> Document | Reject:  # fmt: skip
        title, page_id, revision_id = page.child_text("title"), page.child_text("id"), revision.child_text("id")
        if unfit := screen(text):
            return Reject(location, *unfit)
        try:
            raw_swhid = content_swhid(source_text.encode())
        except UnicodeEncodeError as error:
            return Reject(location, "decode", str(error))
        record_id = f"page {page_id} revision {revision_id}"
        date = revision.child_text("timestamp") or None
        return Document(
            doc_id=document_id("mediawiki", self.source.name, self.archive, page_id, revision_id, raw_swhid),
            text=text, raw_swhid=raw_swhid, encoding="utf-8", extraction=TOOL,
            occurrences=[Occurrence("mediawiki", self.archive, title, record_id=record_id, offset=revision.offset, date=date)],
            url=page_url(self.site.base, title), language=self.site.language or None, meta=self._meta(title, page_id, revision),
            licences=self._claims(title),
        )  # fmt: skip

    def _problem(
        self, page: XmlElement, revision: XmlElement, text: XmlElement | None, source_text: str
    ) -> tuple[str, str] | None:  # fmt: skip
        model = revision.child_text("model") or "wikitext"
        redirect = page.child("redirect")
        if text is None or "deleted" in text.attributes:
            return "deleted", "the text of this revision is not shown"
        if model != "wikitext":
            return NOT_WIKITEXT, model
        if redirect is not None and not self.source.history:
            return "redirect", f"to {redirect.attributes.get('title', '')}"
        if (match := REDIRECT.match(source_text)) and (self.source.history or len(source_text) < 1000):
            return "redirect", f"to {match[1].strip()}"
        most = self.source.max_page_chars
        if len(source_text) > most:
            return "too_large", f"{len(source_text)} characters of wikitext, at most {most}"
        return None

    def _meta(self, title: str, page_id: str, revision: XmlElement) -> dict[str, str]:
        contributor = revision.child("contributor")
        who = (contributor.child_text("username") or contributor.child_text("ip")) if contributor else ""
        meta = {
            "title": title, "page_id": page_id, "revision_id": revision.child_text("id"),
            "timestamp": revision.child_text("timestamp"), "contributor": who, "wiki": self.site.dbname,
        }  # fmt: skip
        return {key: value for key, value in meta.items() if value}

    def _claims(self, title: str) -> list[LicenceClaim]:
        if declared := self.licence:
            return [LicenceClaim(self.archive, title, declared, "declared", "", None, "recipe", 1.0, effective=True)]
        if WIKIMEDIA.match(urlsplit(self.site.base).hostname or ""):
            evidence = f"siteinfo/base: {self.site.base}"
            return [
                LicenceClaim(self.archive, title, WIKIMEDIA_LICENCE, "declared", evidence, None, "siteinfo", 1.0, effective=True)
            ]
        return []


def site_of(siteinfo: XmlElement) -> Site:
    """What <siteinfo> says, and the language of the root around it (else that of a Wikimedia host)."""
    base = siteinfo.child_text("base")
    root = siteinfo.parent
    language = next((value for key, value in (root.attributes if root else {}).items() if key.endswith("lang")), "")
    host = urlsplit(base).hostname or ""
    if not language and WIKIMEDIA.match(host) and re.match(r"[a-z]{2,3}(?:-[a-z]+)*\.", host):
        language = host.partition(".")[0]
    spaces = siteinfo.child("namespaces")
    named = [(space.attributes.get("key", ""), space.text.strip()) for space in (spaces.children if spaces else [])]
    wiki = Wiki(
        language.lower(),
        tuple(name for key, name in named if key in FILE_SPACES and name),
        tuple(name for key, name in named if key in CATEGORY_SPACES and name),
    )
    return Site(base, siteinfo.child_text("dbname"), language, wiki, tuple((name.lower(), key) for key, name in named))


@cache
def _prefix(base: str) -> str:
    return base[: max(base.rfind("/"), base.rfind("title=") + 5) + 1] if base else ""


def page_url(base: str, title: str) -> str | None:
    """The page's address on the wiki whose main page is `base`, escaped as MediaWiki does (wfUrlencode)."""
    return _prefix(base) + quote(title.replace(" ", "_"), safe=";@$!*(),/~:") if base else None


def index_of(file: FoundFile) -> FoundFile | None:
    """The multistream index beside a dump."""
    match = MULTISTREAM.search(file.location)
    if match is None:
        return None
    stem = f"{file.location[: match.start()]}-multistream-index{match[1]}.txt{match[2]}"
    for location in (stem + ".bz2", stem):
        try:
            return find_files(location, "index")[0]
        except SourceError:  # there is none
            continue
    return None


def stream_ranges(file: FoundFile, shard_bytes: int) -> list[tuple[int, int | None]]:
    """Ranges of packed bytes of about `shard_bytes` that begin with a stream; the whole file if it has no index, or is small.

    Raises SourceError if the index is none.
    """
    index = index_of(file) if file.size_bytes > shard_bytes else None
    if index is None:
        return [(0, None)]
    try:
        offsets = sorted(offset for offset in _stream_offsets(index) if 0 < offset < file.size_bytes)
    except (ValueError, CompressedError) as error:
        raise SourceError(
            f"not a multistream index: {error}", where=index.location, fix="remove it, or fetch it again"
        ) from error
    cuts = [0]
    while cuts[-1] + shard_bytes < file.size_bytes:
        at = bisect_left(offsets, cuts[-1] + shard_bytes)
        if at == len(offsets):
            break
        cuts.append(offsets[at])
    return list(zip(cuts, [*cuts[1:], None], strict=True))


def _stream_offsets(index: FoundFile) -> set[int]:
    """The offsets of `offset:page id:title` lines: one for each hundred pages."""
    found, rest = set[int](), b""
    with open_raw(index.location) as file:
        unpacked = UnpackedFile(file)
        while data := unpacked.read(1 << 20):
            *lines, rest = (rest + data).split(b"\n")
            found.update({int(line.partition(b":")[0]) for line in lines})
    return found
