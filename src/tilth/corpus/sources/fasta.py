"""FASTA files of nucleotides, packed or not: a record, or each window of one, is a document."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, ClassVar

from tilth.corpus.file_source import FileSource
from tilth.corpus.formats.compressed import Gap, unpack
from tilth.corpus.formats.content import LIMITS, unpacked
from tilth.corpus.formats.faidx import FIX, FaiEntry, read_fai
from tilth.corpus.formats.fasta import Record, SequenceCutter, records
from tilth.corpus.locations import FoundFile, beside, group_by_size, open_raw
from tilth.corpus.records import Document, Reject, Shard, printable
from tilth.corpus.registry import source
from tilth.corpus.sequence_rows import SequenceRows
from tilth.errors import SourceError

NAMES = (".fa", ".fasta", ".fna", ".ffn", ".fas", ".frn", ".mfa")
SUFFIXES = tuple(f"{name}{packed}" for name in NAMES for packed in ("", ".gz", ".bgz", ".zst", ".xz", ".bz2"))
MAX_DOCUMENT_BYTES = 32 << 20


@source
@dataclass(frozen=True, kw_only=True)
class Fasta(FileSource):
    """`path` is a file, folder, pattern or URL of FASTA; gzip (BGZF too), zstd, xz and bzip2 are told by their first bytes.

    With `window`, a sequence becomes documents of so many letters, one every `stride` (by default `window`, so that they
    tile it); the last one is shorter. Without, it is one document of at most `max_document_bytes`. The text is as written:
    small letters (soft-masking), IUPAC codes and U are kept; what holds another character (gaps too) is a reject.
    meta: sequence, description, start, end (from 0, half open), strand, file, and `assembly` where you name it.
    An index beside a file (`FILE.fai`) is compared with what is read and, where the file is plain and larger than
    `shard_bytes`, cuts it into shards of whole sequences.
    """

    window: int | None = None
    stride: int | None = None
    assembly: str | None = None
    max_document_bytes: int = MAX_DOCUMENT_BYTES

    version: ClassVar[int] = 1
    suffixes: ClassVar[tuple[str, ...]] = SUFFIXES

    def params(self) -> dict[str, Any]:
        """Raises SourceError for a window or a stride that cannot be."""
        check_windows(self.window, self.stride, self.max_document_bytes, self.where)
        return {
            "window": self.window, "stride": self.stride, "assembly": self.assembly,
            "max_document_bytes": self.max_document_bytes,
        }  # fmt: skip

    def files(self) -> list[FoundFile]:
        """The files, those cut into parts that are large and have an index."""
        return [part for file in super().files() for part in self._parts(file)]

    def rows(self, unit: list[FoundFile], shard: Shard) -> Iterator[Document | Reject]:
        """The documents of a file or a part of one, and a reject for every record or damage that gives none."""
        (file,) = unit
        fixed = {"assembly": self.assembly} if self.assembly else {}
        maker = SequenceRows(self.name, "fasta", file.name, shard.params["licence"], fixed)
        expected = _entries_of(file, self._index(file))
        seen: list[tuple[str, int]] = []
        n_gaps = 0
        with open_raw(file.location, self.where) as raw:
            for record in records(_content(raw, file), file.start):
                length = yield from self._record(record, maker)
                for one in record.pieces:
                    if isinstance(one, Gap):
                        yield _lost(maker.file, record, one)
                n_gaps += length is None
                if record.title is not None:
                    seen.append((record.title.name, length or 0))
        if expected is not None and not n_gaps:
            self._compare(file, expected, seen)

    def _record(self, record: Record, maker: SequenceRows) -> Generator[Document | Reject, None, int | None]:
        """The rows of a record; returns its length, None where damage ended it."""
        location = f"{printable(maker.file)}@{record.offset}"
        cutter = SequenceCutter(record.pieces)
        if record.title is None or not record.title.name or not record.title.is_whole:
            length = cutter.finish()
            yield _unnamed(record, location, length)
        else:
            yield from self._windows(cutter, record.title.name, record.title.description, location, maker)
            length = cutter.finish()
        if cutter.gap is not None:
            yield _lost(maker.file, record, cutter.gap)
            return None
        return length

    def _windows(
        self, cutter: SequenceCutter, name: str, description: str, location: str, maker: SequenceRows
    ) -> Iterator[Document | Reject]:
        meta = {"description": description} if description else {}
        window, start = self.window or self.max_document_bytes, 0
        while True:
            letters = cutter.take(start, start + window)
            is_last = not cutter.goes_beyond(start + window)
            if cutter.gap is not None and len(letters) < window:
                return  # where it would have ended is not known
            if not is_last and self.window is None:
                what = f"`{name}` has {cutter.finish()} letters, at most {window}; give a `window`"
                yield Reject(location, "too_large", printable(what))
                return
            if letters or not start:
                yield maker.row(letters, location, name, start, start + len(letters), "+", meta)
            start += self.stride or window
            if is_last:
                return

    def _index(self, file: FoundFile) -> list[FaiEntry] | None:
        found = beside(file, ".fai", self.where)
        if found is None:
            return None
        with open_raw(found.location, self.where) as raw:
            return read_fai(raw.read(), f"{self.where}: {printable(found.name)}")

    def _parts(self, file: FoundFile) -> list[FoundFile]:
        if file.size_bytes <= self.shard_bytes or not _is_plain(file, self.where):
            return [file]
        entries = self._index(file)
        if not entries:
            return [file]
        if entries[-1].end > file.size_bytes:
            raise SourceError("the index is of a longer file", f"{self.where}: {file.location}.fai", FIX)
        ends = [entry.end for entry in entries]
        starts = [0, *ends[:-1]]
        groups = group_by_size(list(zip(starts, ends)), [end - start for start, end in zip(starts, ends)], self.shard_bytes)
        bounds = [group[0][0] for group in groups] + [file.size_bytes]
        return [replace(file, start=start, end=end) for start, end in pairwise(bounds)]

    def _compare(self, file: FoundFile, expected: list[tuple[str, int]], seen: list[tuple[str, int]]) -> None:
        """Raises SourceError where the index does not say what was read."""
        if expected == seen:
            return
        pairs = zip([*expected, ("nothing", 0)], [*seen, ("nothing", 0)])
        told, read = next((one, other) for one, other in pairs if one != other)
        what = f"the index says `{told[0]}` of {told[1]} letters, the file `{read[0]}` of {read[1]}"
        raise SourceError(printable(what), f"{self.where}: {file.location}.fai", FIX)


def check_windows(window: int | None, stride: int | None, max_bytes: int, where: str) -> None:
    """Raises SourceError unless they are numbers of letters that make windows."""
    for name, value in (("window", window), ("stride", stride)):
        if value is not None and value < 1:
            raise SourceError(f"{name} is {value}", where, "give a number of letters from 1 on")
    if stride is not None and window is None:
        raise SourceError("a stride needs a window", where, "give both, or neither")
    if window is not None and window > max_bytes:
        raise SourceError(f"a window of {window} letters exceeds max_document_bytes={max_bytes}", where, "give a smaller one")


def _content(raw: Any, file: FoundFile) -> Iterator[bytes | Gap]:
    return unpacked(raw) if file.end is None else unpack(raw, file.start, file.end, LIMITS)


def _is_plain(file: FoundFile, where: str) -> bool:
    with open_raw(file.location, where) as raw:
        return raw.read(1) == b">"


def _entries_of(file: FoundFile, entries: Sequence[FaiEntry] | None) -> list[tuple[str, int]] | None:
    """Names and lengths of the sequences that begin in a part of a file."""
    if entries is None:
        return None
    end = 1 << 62 if file.end is None else file.end
    return [(entry.name, entry.length) for entry in entries if file.start < entry.offset <= end]


def _unnamed(record: Record, location: str, length: int) -> Reject:
    if record.title is None:
        return Reject(location, "no_title", f"{length} letters before the first line that begins with `>`")
    if not record.title.is_whole:
        return Reject(location, "too_large", f"a title of more than {len(record.title.data)} bytes")
    return Reject(location, "no_name", f"a title without a name, and {length} letters")


def _lost(file: str, record: Record, gap: Gap) -> Reject:
    name = record.title.name if record.title else "what comes first"
    what = f"packed byte {gap.offset}: {gap.detail}; lost are the end of `{name}` and what follows up to the next title"
    return Reject(f"{printable(file)}@{record.offset}", gap.reason, printable(what))
