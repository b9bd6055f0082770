"""CSV and TSV files with a header, quoted cells over several lines too; a row is a document."""

from __future__ import annotations

import codecs
import csv
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from tilth.corpus.formats.compressed import Gap
from tilth.corpus.formats.content import Cut, lines, unpacked
from tilth.corpus.layouts import Place, RecordReader
from tilth.corpus.locations import FoundFile, open_raw
from tilth.corpus.record_files import RecordFiles
from tilth.corpus.records import Document, Reject, Shard, printable
from tilth.corpus.registry import source
from tilth.corpus.sources.parquet_files import chosen_columns
from tilth.errors import SourceError

SUFFIXES = tuple(f"{suffix}{packed}" for suffix in (".csv", ".tsv") for packed in ("", ".gz", ".zst", ".xz", ".bz2"))
MAX_COLUMNS = 10_000
MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))


@source
@dataclass(frozen=True, kw_only=True)
class CsvFiles(RecordFiles):
    """`path` is a file, folder, pattern or URL. `layout` and the names of columns are as in JsonLines.

    RFC 4180: cells in `quote` may hold separators, line feeds and doubled quotes. `header` gives the names where
    the file has none. `separator` is a comma, a tab for `.tsv`, unless it is given. `encoding` is what a byte order
    mark does not decide. A quote that is never closed costs what follows it up to `max_row_bytes`, in one reject.
    """

    header: tuple[str, ...] | None = None
    separator: str | None = None
    quote: str = '"'
    encoding: str = "utf-8"
    max_row_bytes: int = 32 << 20

    version: ClassVar[int] = 2
    suffixes: ClassVar[tuple[str, ...]] = SUFFIXES
    kind: ClassVar[str] = "csv"

    def params(self) -> dict[str, Any]:
        """Raises SourceError: no such layout, no such encoding."""
        try:
            codecs.lookup(self.encoding)
        except LookupError:
            raise SourceError(f"no such encoding: `{self.encoding}`", where=self.where, fix="for example utf-8, cp1252") from None
        return {
            **super().params(), "header": list(self.header) if self.header else None, "separator": self.separator,
            "quote": self.quote, "encoding": self.encoding, "max_row_bytes": self.max_row_bytes,
        }  # fmt: skip

    def rows(self, unit: list[FoundFile], shard: Shard) -> Iterator[Document | Reject]:
        """A row for every row below the header, a reject for every damage. Raises SourceError: unreadable, no column."""
        (file,) = unit
        yield from self.read_file(file, self.reader(shard))

    def read_file(self, file: FoundFile, reader: RecordReader) -> Iterator[Document | Reject]:
        """The rows of one file. Raises SourceError if it is unreadable or a column is missing."""
        name = printable(file.name)
        tabs = ".tsv" in Path(name).suffixes[-2:]
        table = CsvTable(name, self.max_row_bytes, self.separator or ("\t" if tabs else ","), self.quote)
        with open_raw(file.location, self.where) as raw:
            found = table.rows(recoded(unpacked(raw), self.encoding))
            header = list(self.header) if self.header else None
            for number, cells in found:
                yield from table.take_rejects()
                if cells is None:
                    continue
                if header is None:
                    header = cells
                    if len(header) > MAX_COLUMNS:
                        yield Reject(f"{name}:{number}", "too_wide", f"{len(header)} columns, at most {MAX_COLUMNS}")
                        return
                    if not all(map(_is_text, header)):
                        fix = "encoding=... names what the file is in, for example cp1252"
                        raise SourceError("the header is not UTF-8", where=f"{self.where}: {name}", fix=fix)
                    other = next((mark for mark in ";\t|" if header != [self.text] and mark in header[0]), None)
                    if other and len(header) == 1 and self.separator is None:
                        raise SourceError("the header is one column", where=f"{self.where}: {name}", fix=f"separator={other!r}")
                    chosen_columns(header, reader.layout, None, f"{self.where}: {name}")
                else:
                    yield _row(cells, header, number, name, reader)
            yield from table.take_rejects()


def recoded(parts: Iterable[bytes | Gap], encoding: str) -> Iterator[bytes | Gap]:
    """The parts in UTF-8. A byte order mark decides the encoding; UTF-8 is passed on unchecked; a fault in another is a gap."""
    decoder: codecs.IncrementalDecoder | None = None
    first = True
    for part in parts:
        if isinstance(part, Gap):
            yield part
            continue
        if first:
            first = False
            encoding = next((known for mark, known in MARKS if part.startswith(mark)), encoding)
            part = part.removeprefix(next((mark for mark, known in MARKS if part.startswith(mark)), b""))
            if codecs.lookup(encoding).name not in ("utf-8", "utf-8-sig", "ascii"):
                decoder = codecs.getincrementaldecoder(encoding)()
        try:
            yield decoder.decode(part).encode("utf-8") if decoder else part
        except UnicodeError as error:
            yield Gap(0, "decode", f"not {encoding}: {error}"[:200])
            return


class CsvTable:
    """The rows of a file, and what could not be a row."""

    def __init__(self, name: str, max_row_bytes: int, separator: str, quote: str) -> None:
        self.name, self.max_row_bytes, self.separator, self.quote = name, max_row_bytes, separator, quote
        self._rejects: list[Reject] = []

    def take_rejects(self) -> list[Reject]:
        """The rejects since the last call."""
        taken, self._rejects = self._rejects, []
        return taken

    def rows(self, parts: Iterable[bytes | Gap]) -> Iterator[tuple[int, list[str] | None]]:
        """(line on which it begins, cells) of every row; no cells where there are only rejects to take."""
        csv.field_size_limit(max(self.max_row_bytes, csv.field_size_limit()))
        parser = csv.reader(self._lines(parts), delimiter=self.separator, quotechar=self.quote, strict=True)
        while True:
            start = parser.line_num + 1
            try:
                cells = next(parser)
            except StopIteration:
                return
            except csv.Error as error:
                reason = "too_large" if "field limit" in str(error) else "invalid_csv"
                self._rejects.append(Reject(f"{self.name}:{start}", reason, f"to line {parser.line_num}: {error}"))
                yield start, None
                continue
            if cells:
                yield start, cells

    def _lines(self, parts: Iterable[bytes | Gap]) -> Iterator[str]:
        for line in lines(parts, self.max_row_bytes):
            location = f"{self.name}:{line.number}"
            if isinstance(line, Cut):
                self._rejects.append(Reject(location, line.reason, line.detail))
            elif line.data is None:
                self._rejects.append(
                    Reject(location, "too_large", f"a line of {line.size_bytes} bytes, at most {self.max_row_bytes}")
                )
            else:
                yield line.data.decode("utf-8", "surrogateescape") + "\n"


def _row(cells: list[str], header: list[str], number: int, name: str, reader: RecordReader) -> Document | Reject:
    location = f"{name}:{number}"
    if len(cells) != len(header):
        return Reject(location, "wrong_width", f"{len(cells)} cells, {len(header)} columns")
    damaged = next((column for column, cell in zip(header, cells, strict=True) if not _is_text(cell)), None)
    if damaged is not None:
        return Reject(location, "decode", f"`{damaged}` is not UTF-8")
    record = {column: cell for column, cell in zip(header, cells, strict=True) if cell}
    return reader.row({reader_text(reader, header): "", **record}, Place(location, name, str(number), None, None))


def reader_text(reader: RecordReader, header: list[str]) -> str:
    """The column of the text: an empty cell is an empty text, not a missing one."""
    return reader.layout.text if reader.layout else next((name for name in ("text", "raw_content") if name in header), "text")


def _is_text(cell: str) -> bool:
    try:
        cell.encode("utf-8")
    except UnicodeEncodeError:  # a byte that was not UTF-8, kept as a surrogate
        return False
    return True
