"""The index of a FASTA (.fai) and that of a BGZF file (.gzi): random access to sequences, and a check that they belong to it.

An index that was made for another state of its file would silently give other letters; it is refused.
Source: samtools, `faidx(5)` and `bgzip(1)`; SAM specification, 4.1 (BGZF).
"""

from __future__ import annotations

import re
import struct
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from typing import BinaryIO, NamedTuple

from tilth.corpus.formats.compressed import Gap, unpack
from tilth.corpus.formats.fasta import MAX_TITLE_BYTES, WHITE, Title
from tilth.errors import SourceError

FIX = "make it again, `samtools faidx FILE`, or remove it: it is not needed"
_ROW = re.compile(rb"([^\t]*)\t(\d{1,18})\t(\d{1,18})\t(\d{1,18})\t(\d{1,18})\r?")


class FaiEntry(NamedTuple):
    """A sequence: its letters begin at `offset` of the unpacked file, `line_bases` to a line of `line_width` bytes."""

    name: str
    length: int
    offset: int
    line_bases: int
    line_width: int

    def place(self, position: int) -> int:
        """The offset of the letter at `position`."""
        lines, column = divmod(position, self.line_bases) if self.line_bases else (0, 0)
        return self.offset + lines * self.line_width + column

    @property
    def end(self) -> int:
        """The offset behind the last letter."""
        return self.place(self.length - 1) + 1 if self.length else self.offset


def read_fai(data: bytes, where: str) -> list[FaiEntry]:
    """The entries in the order of the file. Raises SourceError for what is no index, or one of overlapping or equal sequences."""
    found: list[FaiEntry] = []
    for number, line in enumerate(data.split(b"\n"), 1):
        if not line.strip():
            continue
        match = _ROW.fullmatch(line)
        if match is None:
            raise SourceError(f"line {number} of the index is not name, length, offset, bases, width", where, FIX)
        length, offset, bases, width = (int(value) for value in match.groups()[1:])
        if (length and not bases) or width < bases or (found and offset <= found[-1].end):
            raise SourceError(f"line {number} of the index cannot be", where, FIX)
        found.append(FaiEntry(match[1].decode("utf-8", "surrogateescape"), length, offset, bases, width))
    names = [entry.name for entry in found]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise SourceError(f"the index has `{twice}` twice, so that its name does not tell which", where, FIX)
    return found


def read_gzi(data: bytes, where: str) -> list[tuple[int, int]]:
    """(unpacked, packed) offsets of the blocks, the first at 0. Raises SourceError."""
    n_blocks = struct.unpack_from("<Q", data)[0] if len(data) >= 8 else -1
    if len(data) != 8 + 16 * n_blocks:
        raise SourceError(f"{len(data)} bytes are no index of {max(n_blocks, 0)} blocks", where, "make it again: `bgzip -r FILE`")
    blocks = [(unpacked, packed) for packed, unpacked in struct.iter_unpack("<QQ", data[8:])]
    return [(0, 0), *blocks]


class IndexedFasta:
    """Sequences by name from an open FASTA, plain or (with `blocks`) in BGZF. Raises SourceError for another file's index."""

    def __init__(
        self, stream: BinaryIO, entries: Iterable[FaiEntry], where: str, blocks: list[tuple[int, int]] | None = None
    ) -> None:
        self.entries = {entry.name: entry for entry in entries}
        self._stream, self._where, self._blocks = stream, where, blocks

    def pieces(self, entry: FaiEntry, start: int, end: int) -> Iterator[bytes | Gap]:
        """The letters from `start` to `end`, which must lie in the sequence, without white space."""
        self._check(entry)
        for part in self._parts(entry.place(start), entry.place(end - 1) + 1 if end > start else entry.place(start)):
            yield part if isinstance(part, Gap) else part.translate(None, WHITE)

    def _check(self, entry: FaiEntry) -> None:
        """The title stands before it, its first line is as long as the index says, and behind it comes a title or nothing."""
        before = self._bytes(max(0, entry.offset - MAX_TITLE_BYTES), entry.offset)
        line = before[before.rfind(b"\n", 0, -1) + 1 :]
        begins = line.startswith(b">") and line.endswith(b"\n") and Title(line[1:], True).name == entry.name
        line = self._bytes(entry.place(0), entry.place(0) + entry.line_width) if entry.length > entry.line_bases else b""
        letters = line[: entry.line_bases].translate(None, WHITE)
        is_line = not line or (len(letters) == entry.line_bases and line.endswith(b"\n"))
        behind = self._bytes(entry.end, entry.end + 64).lstrip(WHITE)
        if not begins or not is_line or behind[:1] not in (b"", b">"):
            raise SourceError(f"the index is not of this file: `{entry.name}` does not lie where it says", self._where, FIX)

    def _bytes(self, start: int, end: int) -> bytes:
        return b"".join(part for part in self._parts(start, end) if not isinstance(part, Gap))

    def _parts(self, start: int, end: int) -> Iterator[bytes | Gap]:
        """The unpacked bytes from `start` to `end`."""
        for part in self._unpacked_from(start):
            if isinstance(part, Gap):
                yield part
                return
            if start < end:
                yield part[: end - start]
            start += len(part)
            if start >= end:
                return

    def _unpacked_from(self, start: int) -> Iterator[bytes | Gap]:
        if self._blocks is None:
            self._stream.seek(start)
            while data := self._stream.read(1 << 18):
                yield data
            return
        unpacked, packed = self._blocks[bisect_right(self._blocks, (start, 1 << 62)) - 1]
        n_before = start - unpacked
        for part in unpack(self._stream, packed):
            if isinstance(part, Gap):
                yield part
            elif n_before < len(part):
                yield part[n_before:]
                n_before = 0
            else:
                n_before -= len(part)
