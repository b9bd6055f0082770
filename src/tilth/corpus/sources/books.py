"""Books of Project Gutenberg as text, HTML or LaTeX, and other books in such files; a book or a chapter is a document."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

from tilth.corpus.attempts import MAX_SECONDS, Refused, attempt
from tilth.corpus.extract.charset import CharsetError, decode_html
from tilth.corpus.extract.gutenberg import Book, decode_book, language_code, read_book, split_chapters, without_markers
from tilth.corpus.extract.html import DepthError, extract_html
from tilth.corpus.extract.tex_comments import normalise_newlines, strip_comments, strip_dead_branches
from tilth.corpus.extract.tex_macros import expand_macros
from tilth.corpus.extract.tex_project import HAS_BEGIN, HAS_END
from tilth.corpus.extract.tex_tokens import TexError
from tilth.corpus.file_source import FileSource
from tilth.corpus.formats.content import DamagedError, decompressed
from tilth.corpus.locations import FoundFile, open_raw
from tilth.corpus.provenance.swhid import content_swhid
from tilth.corpus.records import Document, LicenceClaim, Occurrence, Reject, Shard, document_id, printable, screen
from tilth.corpus.registry import source

HTML, TEX, TEXT = (".htm", ".html", ".xhtml"), (".tex", ".ltx"), (".txt", ".text", ".utf8", ".asc")
SUFFIXES = tuple(f"{suffix}{packed}" for suffix in (*HTML, *TEX, *TEXT) for packed in ("", ".gz", ".bz2", ".xz", ".zst"))
PUBLIC_DOMAIN_USA, COPYRIGHTED = "LicenseRef-public-domain-USA", "LicenseRef-Gutenberg-copyrighted"
TOOL = "tilth gutenberg 1"


@source
@dataclass(frozen=True)
class Books(FileSource):
    """Header, licence and footer of Project Gutenberg go; what the header says goes into `meta`.

    `path` is a file, folder, pattern or URL. LaTeX stays LaTeX, without comments. `chapters=True` makes a document of each
    chapter. A book whose header gives it free claims LicenseRef-public-domain-USA, for the United States is all that
    it speaks of; `licence` is what you declare for books without such a header.
    """

    chapters: bool = False
    max_file_bytes: int = 64 << 20
    max_seconds: float = MAX_SECONDS

    version: ClassVar[int] = 2
    libraries: ClassVar[tuple[str, ...]] = ("resiliparse",)
    suffixes: ClassVar[tuple[str, ...]] = SUFFIXES

    def params(self) -> dict[str, Any]:
        """What makes a document, and the limits."""
        return {"chapters": self.chapters, "max_file_bytes": self.max_file_bytes, "max_seconds": self.max_seconds}

    def rows(self, unit: list[FoundFile], shard: Shard) -> Iterator[Document | Reject]:
        """The documents or a reject for a file. Raises SourceError if it is unreadable."""
        (file,) = unit
        name = printable(file.name)
        try:
            with open_raw(file.location, self.where) as raw:
                data = decompressed(raw).read(self.max_file_bytes + 1)
        except DamagedError as error:
            yield Reject(name, error.reason, error.detail)
            return
        if len(data) > self.max_file_bytes:
            yield Reject(name, "too_large", f"more than {self.max_file_bytes} bytes")
            return
        found = attempt(f"{__name__}:parse_book", data, name.lower(), self.chapters, max_seconds=self.max_seconds)
        if isinstance(found, Refused):
            yield Reject(name, *found)
            return
        whole = self._document(name, found, data, shard)
        for i, (heading, text) in enumerate(found.parts or [("", "")]):
            if unfit := screen(text):
                yield Reject(name, *unfit)
            elif self.chapters:
                yield self._chapter(whole, i, heading, text)
            else:
                yield whole

    def _document(self, name: str, found: ParsedBook, data: bytes, shard: Shard) -> Document:
        book, raw_swhid = found.book, content_swhid(data)
        known = {key: value for key, value in book.header.items() if key not in ("language", "charset")}
        meta = {**known, "gutenberg_id": book.number, "credits": book.credits, "boilerplate": book.markers, "terms": book.terms}
        return Document(
            doc_id=document_id("book", self.name, name, raw_swhid), text=book.text, raw_swhid=raw_swhid,
            encoding=found.encoding, extraction=found.tool,
            language=language_code(book.header.get("language", "")) or found.language,
            occurrences=[Occurrence("file", self.name, name)], meta={key: value for key, value in meta.items() if value},
            url=f"https://www.gutenberg.org/ebooks/{book.number}" if book.number else None,
            licences=self._claims(name, book, raw_swhid, shard.params["licence"]),
        )  # fmt: skip

    def _claims(self, name: str, book: Book, swhid: str, declared: str | None) -> list[LicenceClaim]:
        if book.terms and book.markers:
            spdx = COPYRIGHTED if book.terms == "copyrighted" else PUBLIC_DOMAIN_USA
            return [LicenceClaim(self.name, name, spdx, "file", name, swhid, "gutenberg header", 1.0, effective=True)]
        return [LicenceClaim(self.name, name, declared, "declared", "", None, "recipe", 1.0, effective=True)] if declared else []

    def _chapter(self, book: Document, index: int, heading: str, text: str) -> Document:
        name = book.occurrences[0].path
        return replace(
            book, doc_id=document_id("chapter", self.name, name, str(index), book.raw_swhid), text=text,
            occurrences=[Occurrence("file", self.name, name, record_id=f"chapter {index}")],
            meta={**book.meta, "chapter": heading, "chapter_index": str(index)},
        )  # fmt: skip


class ParsedBook(NamedTuple):
    """A book of a file: its text in parts, and how it became that."""

    book: Book
    parts: list[tuple[str, str]]  # (heading, text) of each chapter, or the whole
    encoding: str
    tool: str
    language: str | None  # that the file itself declares


def parse_book(data: bytes, name: str, chapters: bool) -> ParsedBook | Refused:
    """The book in the bytes of a file, which its name says how to read: decode, binary, too_deep, or a reason of TeX."""
    try:
        book, encoding, tool, language = _read(name, data)
    except TexError as error:
        return Refused(error.reason, error.detail)
    except CharsetError as error:
        return Refused("decode", str(error))
    except DepthError as error:
        return Refused("too_deep", str(error))
    except ValueError as error:
        return Refused("binary", str(error))
    return ParsedBook(book, split_chapters(book.text) if chapters else [("", book.text)], encoding, tool, language)


def _read(name: str, data: bytes) -> tuple[Book, str, str, str | None]:
    """(book, encoding, tool, language that the file itself declares)."""
    stem = next((name.removesuffix(end) for end in (".gz", ".bz2", ".xz", ".zst") if name.endswith(end)), name)
    if stem.endswith(HTML):
        characters, encoding = decode_html(data)
        page = extract_html(characters, "resiliparse_all")
        return read_book(page.text), encoding, f"{page.tool}; {TOOL}", page.language
    text, encoding = decode_book(data)
    if not stem.endswith(TEX):
        return read_book(text), encoding, TOOL, None
    typeset, _ = expand_macros(strip_dead_branches(strip_comments(normalise_newlines(text))))
    begin, end = HAS_BEGIN.search(typeset), HAS_END.search(typeset)
    body = typeset[begin.end() if begin else 0 : end.start() if end else len(typeset)]
    return replace(read_book(text), text=without_markers(body)), encoding, f"tilth tex; {TOOL}", None
