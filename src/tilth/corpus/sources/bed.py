"""Intervals (BED, or a table with a header) over a FASTA: each interval is a document, with its other columns in `meta`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

from tilth.corpus.file_source import FileSource
from tilth.corpus.formats.compressed import Gap, packed_form
from tilth.corpus.formats.content import unpacked
from tilth.corpus.formats.faidx import IndexedFasta, read_fai, read_gzi
from tilth.corpus.formats.fasta import SequenceCutter, records
from tilth.corpus.formats.intervals import BED_COLUMNS, Interval, NoInterval, bed_intervals, table_intervals
from tilth.corpus.formats.nucleotides import reverse_complement
from tilth.corpus.locations import FoundFile, beside, find_files, fingerprint_of, open_raw, refuse_changed
from tilth.corpus.records import Document, Reject, Shard, fingerprint, printable
from tilth.corpus.registry import source
from tilth.corpus.sequence_rows import AS_WRITTEN, OTHER_STRAND, SequenceRows
from tilth.errors import SourceError, did_you_mean

SUFFIXES = tuple(f"{name}{packed}" for name in (".bed", ".csv", ".tsv") for packed in ("", ".gz", ".zst", ".xz", ".bz2"))
MAX_DOCUMENT_BYTES = 32 << 20


@source
@dataclass(frozen=True, kw_only=True)
class Bed(FileSource):
    """`path` is a file, folder, pattern or URL of intervals, `fasta` the file that holds their sequences.

    A BED row's columns behind the third are `columns` (by default BED's own: name, score, strand, ...); a `.csv` or `.tsv`
    has a header with region (or chrom), start, end and strand. On strand `-` the text is the reverse complement. All other
    columns go to `meta` as they are, beside sequence, start, end, strand and file; `label` gives all rows the same
    `meta['label']`. A column `label` is one already. Rows come in the order of the FASTA, then of their starts.
    With an index (`.fai`; and `.gzi` for BGZF) only the sequences that are named are read, from the first interval on.
    """

    fasta: str
    columns: tuple[str, ...] = BED_COLUMNS
    label: str | None = None
    assembly: str | None = None
    max_document_bytes: int = MAX_DOCUMENT_BYTES

    version: ClassVar[int] = 1
    suffixes: ClassVar[tuple[str, ...]] = SUFFIXES

    def plan(self, digest: Callable[[Path], str] = fingerprint) -> list[Shard]:
        """As for any files; the FASTA is the last file of each shard. Raises SourceError."""
        found = find_files(self.fasta, self.where)
        if len(found) != 1:
            raise SourceError(f"{len(found)} files are at `fasta`", f"{self.where}: {self.fasta}", "give one file")
        fasta = replace(found[0], content=fingerprint_of(found[0], digest))
        shards = super().plan(digest)
        own = {"fasta": fasta.described, "fasta_content": fasta.content}
        return [replace(shard, params={**shard.params, **own}, files=(*shard.files, fasta)) for shard in shards]

    def params(self) -> dict[str, Any]:
        """What decides how rows are read."""
        return {
            "columns": list(self.columns), "label": self.label, "assembly": self.assembly,
            "max_document_bytes": self.max_document_bytes,
        }  # fmt: skip

    def read(self, shard: Shard) -> Iterator[Document | Reject]:
        """Yield a document or a reject for every interval. Raises SourceError: unreadable, changed since planned."""
        *files, fasta = shard.files
        refuse_changed(fasta, self.where)
        yield from super().read(replace(shard, files=tuple(files)))
        refuse_changed(fasta, self.where)

    def rows(self, unit: list[FoundFile], shard: Shard) -> Iterator[Document | Reject]:
        """The documents of a file of intervals, and a reject for every row that gives none. Raises SourceError."""
        (file,) = unit
        fixed = {name: value for name, value in (("assembly", self.assembly), ("label", self.label)) if value is not None}
        maker = SequenceRows(self.name, "bed", file.name, shard.params["licence"], fixed)
        wanted: dict[str, list[Interval]] = {}
        for row in self._intervals(file):
            if isinstance(row, NoInterval):
                yield Reject(f"{printable(file.name)}:{row.line}", row.reason, printable(row.detail))
            else:
                wanted.setdefault(row.sequence, []).append(row)
        (fasta,) = find_files(self.fasta, self.where)
        with open_raw(fasta.location, self.where) as stream:
            sequences = _Sequences(fasta, stream, self.where)
            for name, cutter in sequences.with_intervals(wanted):
                for interval in sorted(wanted.pop(name), key=lambda row: (row.start, row.end, row.line)):
                    yield self._row(interval, cutter, maker)
        for gap in sequences.gaps:
            yield Reject(f"{printable(fasta.name)}@{gap.offset}", gap.reason, f"the FASTA: {gap.detail}")
        for name, rows in wanted.items():
            what = printable(f"the FASTA has no `{name}`. {did_you_mean(name, sequences.names)}")
            for interval in rows:
                yield Reject(f"{printable(file.name)}:{interval.line}", "unknown_sequence", what)

    def _intervals(self, file: FoundFile) -> Iterator[Interval | NoInterval]:
        kind = next(kind for kind in (".bed", ".csv", ".tsv", "") if kind in Path(file.name.lower()).suffixes[-2:] or not kind)
        with open_raw(file.location, self.where) as raw:
            parts = unpacked(raw)
            yield from (
                table_intervals(parts, "\t" if kind == ".tsv" else ",") if kind in (".csv", ".tsv")
                else bed_intervals(parts, self.columns)
            )  # fmt: skip

    def _row(self, interval: Interval, cutter: SequenceCutter, maker: SequenceRows) -> Document | Reject:
        location = f"{printable(maker.file)}:{interval.line}"
        n_wanted = interval.end - interval.start
        if n_wanted > self.max_document_bytes:
            return Reject(location, "too_large", f"{n_wanted} letters, at most {self.max_document_bytes}")
        letters = cutter.take(interval.start, interval.end)
        if len(letters) < n_wanted:
            if cutter.gap is not None:
                return Reject(location, cutter.gap.reason, f"the FASTA at packed byte {cutter.gap.offset}: {cutter.gap.detail}")
            what = f"`{interval.sequence}` has {cutter.n_seen} letters, the interval ends at {interval.end}"
            return Reject(location, "out_of_range", printable(what))
        is_turned = interval.strand == "-"
        return maker.row(
            reverse_complement(letters) if is_turned else letters, location, interval.sequence, interval.start, interval.end,
            interval.strand, interval.columns, extraction=OTHER_STRAND if is_turned else AS_WRITTEN,
        )  # fmt: skip


class _Sequences:
    """The sequences of an open FASTA, found by its index or, without one, by reading it from its beginning to its end."""

    def __init__(self, fasta: FoundFile, stream: BinaryIO, where: str) -> None:
        self._fasta, self._stream, self._where = fasta, stream, where
        self.names: list[str] = []
        self.gaps: list[Gap] = []

    def with_intervals(self, wanted: Mapping[str, Sequence[Interval]]) -> Iterator[tuple[str, SequenceCutter]]:
        """Those of `wanted`, in the order of the file. Raises SourceError: a wrong index, two sequences of one name."""
        index = self._index()
        if index is None:
            yield from self._streamed(wanted)
            return
        self.names = list(index.entries)
        for name, entry in index.entries.items():
            if name in wanted:
                start = min(entry.length, *(row.start for row in wanted[name]))
                end = min(entry.length, max(row.end for row in wanted[name]))
                yield name, SequenceCutter(index.pieces(entry, start, max(start, end)), start)

    def _streamed(self, wanted: Mapping[str, Sequence[Interval]]) -> Iterator[tuple[str, SequenceCutter]]:
        seen: set[str] = set()
        asked = {*wanted}
        for record in records(self._noted(unpacked(self._stream))):
            name = record.title.name if record.title else ""
            if name in asked and name in seen:
                raise SourceError(f"the FASTA has `{name}` twice", f"{self._where}: {self._fasta.location}", "rename one of them")
            seen.add(name)
            if name in asked:
                yield name, SequenceCutter(record.pieces)
        self.names = sorted(seen - {""})

    def _noted(self, parts: Iterable[bytes | Gap]) -> Iterator[bytes | Gap]:
        for part in parts:
            if isinstance(part, Gap):
                self.gaps.append(part)
            yield part

    def _index(self) -> IndexedFasta | None:
        """By `.fai` where the file is plain, and by `.gzi` as well where it is packed."""
        fai, gzi = (beside(self._fasta, suffix, self._where) for suffix in (".fai", ".gzi"))
        is_plain = packed_form(self._stream.read(16)) == "plain"
        self._stream.seek(0)
        if fai is None or (gzi is None and not is_plain):
            return None
        entries = read_fai(self._bytes(fai), f"{self._where}: {printable(fai.name)}")
        where = f"{self._where}: {self._fasta.location}"
        blocks = read_gzi(self._bytes(gzi), where) if gzi is not None and not is_plain else None
        return IndexedFasta(self._stream, entries, where, blocks)

    def _bytes(self, file: FoundFile) -> bytes:
        with open_raw(file.location, self._where) as raw:
            return raw.read()
