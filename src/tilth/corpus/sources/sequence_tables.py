"""Labelled sequences in tables (CSV, TSV, ARFF): a row is a document, with its class as `meta['label']`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

from tilth.corpus.file_source import FileSource
from tilth.corpus.formats.arff import arff_rows
from tilth.corpus.formats.content import unpacked
from tilth.corpus.formats.nucleotides import described, find_other
from tilth.corpus.locations import FoundFile, open_raw
from tilth.corpus.provenance.swhid import content_swhid
from tilth.corpus.records import Document, Occurrence, Reject, Shard, document_id, printable
from tilth.corpus.registry import source
from tilth.corpus.sources.csv_files import CsvTable, recoded
from tilth.corpus.web_pages import declared_claims
from tilth.errors import SourceError, did_you_mean

SUFFIXES = tuple(
    f"{name}{packed}" for name in (".csv", ".tsv", ".arff", ".data") for packed in ("", ".gz", ".zst", ".xz", ".bz2")
)


@source
@dataclass(frozen=True, kw_only=True)
class SequenceTables(FileSource):
    """`path` is a file, folder, pattern or URL. `sequence` and `label` name columns; all others go to `meta` under their names.

    A `sequence` with `*`, such as `attribute_*`, is all columns that match, joined: one letter in each. With `kmer=6` it is a
    sentence of overlapping 6-mers, as DNABERT's sets are, that is put together again. `label=None`: there are no classes.
    `header` names the columns where the file does not; `separator` is a comma, or a tab for `.tsv`.
    """

    sequence: str = "sequence"
    label: str | None = "label"
    kmer: int | None = None
    header: tuple[str, ...] | None = None
    separator: str | None = None
    max_row_bytes: int = 32 << 20

    version: ClassVar[int] = 1
    suffixes: ClassVar[tuple[str, ...]] = SUFFIXES

    def params(self) -> dict[str, Any]:
        """Raises SourceError: k-mers of no letters."""
        if self.kmer is not None and self.kmer < 1:
            raise SourceError(f"kmer is {self.kmer}", self.where, "give the number of letters of a k-mer, 6 for DNABERT-6")
        return {
            "sequence": self.sequence, "label": self.label, "kmer": self.kmer, "separator": self.separator,
            "header": list(self.header) if self.header else None, "max_row_bytes": self.max_row_bytes,
        }  # fmt: skip

    def rows(self, unit: list[FoundFile], shard: Shard) -> Iterator[Document | Reject]:
        """A row for every row of a table. Raises SourceError: unreadable, no such column."""
        (file,) = unit
        name, suffixes = printable(file.name), Path(file.name.lower()).suffixes[-2:]
        is_arff, separator = ".arff" in suffixes, self.separator or ("\t" if ".tsv" in suffixes else ",")
        table = CsvTable(name, self.max_row_bytes, separator, "'" if is_arff else '"')
        header = list(self.header or ())
        with open_raw(file.location, self.where) as raw:
            parts = unpacked(raw)
            columns: list[str] = []
            for number, cells in table.rows(recoded(arff_rows(parts, header) if is_arff else parts, "utf-8")):
                yield from table.take_rejects()
                if cells is None:
                    continue
                cells = [cell.strip() for cell in cells]
                if not header:
                    header = cells
                    continue
                columns = columns or self._columns(header, name)
                yield self._row(dict(zip(header, cells)), len(cells) == len(header), columns, (name, number), shard)
            yield from table.take_rejects()

    def _columns(self, header: Sequence[str], name: str) -> list[str]:
        """The columns of the sequence."""
        found = [column for column in header if fnmatchcase(column, self.sequence)]
        for wanted, is_there in ((self.sequence, bool(found)), (self.label, self.label is None or self.label in header)):
            if not is_there:
                what, fix = f"there is no column `{wanted}`", did_you_mean(str(wanted), [*header])
                raise SourceError(what, f"{self.where}: {name}", fix)
        return found

    def _row(
        self, record: dict[str, str], is_whole: bool, columns: Sequence[str], place: tuple[str, int], shard: Shard
    ) -> Document | Reject:  # fmt: skip
        name, number = place
        location = f"{name}:{number}"
        if not is_whole:
            return Reject(location, "wrong_width", f"{len(record)} of the header's columns, or more")
        text = "".join(record.pop(column) for column in columns)
        joined = text if self.kmer is None else _joined(text, self.kmer)
        if joined is None:
            return Reject(location, "invalid_kmers", f"not overlapping {self.kmer}-mers: {printable(text[:80])}")
        letters = joined.encode("utf-8", "surrogateescape")
        if not letters:
            return Reject(location, "empty", "no letters")
        if (at := find_other(letters)) is not None:
            return Reject(location, "invalid_character", f"{printable(described(letters, at))} at {at} is no nucleotide")
        label = {} if self.label is None else {"label": record.pop(self.label)}
        if label.get("label") == "":
            return Reject(location, "no_label", f"`{self.label}` is empty")
        swhid = content_swhid(letters)
        others = {column: value for column, value in record.items() if value}
        return Document(
            doc_id=document_id("table", self.name, name, str(number), swhid), text=joined, raw_swhid=swhid, encoding="ascii",
            extraction="as written" if self.kmer is None else f"{self.kmer}-mers joined", meta={**others, **label, "file": name},
            occurrences=[Occurrence("table", self.name, name, record_id=str(number))],
            licences=declared_claims(shard.params["licence"], self.name, name),
        )  # fmt: skip


def _joined(text: str, k: int) -> str | None:
    """The sequence whose k-mers, one for each place, `text` lists between spaces; None where they do not overlap so."""
    words = text.split()
    overlap = all(one[1:] == other[:-1] for one, other in pairwise(words))
    if not words or not overlap or any(len(word) != k for word in words):
        return None
    return words[0] + "".join(word[-1] for word in words[1:])
