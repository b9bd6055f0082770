"""FASTA as a stream: titles, and the letters of each sequence in pieces, so that a chromosome on one line costs no memory.

A line that begins with `>` is a title: the name up to the first white space, then a description. All other lines, of any
length and with any line ends, are the sequence; white space in it does not count.
Source: Pearson and Lipman 1988; the name as `samtools faidx` takes it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import NamedTuple

from tilth.corpus.formats.compressed import Gap

MAX_TITLE_BYTES = 1 << 16
WHITE = b" \t\r\n\v\f"
MARK = b"\xef\xbb\xbf"


class Title(NamedTuple):
    """The first line of a record, without `>`; `is_whole` is False where it was longer than MAX_TITLE_BYTES."""

    data: bytes
    is_whole: bool

    @property
    def name(self) -> str:
        """Up to the first white space; empty where there is nothing."""
        return (self.data.split(None, 1) or [b""])[0].decode("utf-8", "surrogateescape")

    @property
    def description(self) -> str:
        """What follows the name."""
        return b" ".join(self.data.split(None, 1)[1:]).strip().decode("utf-8", "surrogateescape")


class Record(NamedTuple):
    """A record, or what lies before the first one (without a title); its pieces must be read before the next record."""

    offset: int  # of its title in the unpacked content
    title: Title | None
    pieces: Iterator[bytes | Gap]  # letters, without white space; nothing follows on a gap


class _Event(NamedTuple):
    record: int
    offset: int
    found: Title | bytes | Gap


def records(parts: Iterable[bytes | Gap], offset: int = 0) -> Iterator[Record]:
    """The records of unpacked content that begins at `offset`. After a gap reading goes on at the next title."""
    for number, group in groupby(_events(parts, offset), key=lambda event: event.record):
        first = next(group)
        if number == 0:
            rest = (event.found for event in group)
            yield Record(first.offset, None, (one for one in _chain(first.found, rest) if not isinstance(one, Title)))
        else:
            title = first.found
            assert isinstance(title, Title)
            yield Record(first.offset, title, (event.found for event in group if not isinstance(event.found, Title)))


def _chain(first: Title | bytes | Gap, rest: Iterator[Title | bytes | Gap]) -> Iterator[Title | bytes | Gap]:
    yield first
    yield from rest


def _events(parts: Iterable[bytes | Gap], offset: int) -> Iterator[_Event]:
    """Titles, letters and gaps with the number of their record, 0 before the first title."""
    record = 0
    title: bytearray | None = None  # while it is not complete
    title_offset = 0
    at_line_start = is_first = True
    is_lost = False  # behind a gap, until the next title
    for part in parts:
        if isinstance(part, Gap):
            if title is not None:
                yield _Event(record, title_offset, _title(title))
            yield _Event(record, offset, part)
            title, at_line_start, is_lost, is_first = None, True, True, False
            continue
        at = len(MARK) if is_first and part.startswith(MARK) else 0
        is_first = False
        while at < len(part):
            if title is not None:
                end = part.find(b"\n", at)
                stop = len(part) if end < 0 else end
                title += part[at : min(stop, at + MAX_TITLE_BYTES + 1 - len(title))]
                at = stop + 1
                if end >= 0:
                    yield _Event(record, title_offset, _title(title))
                    title, at_line_start = None, True
            elif at_line_start and part[at] == ord(">"):
                record, title, title_offset, is_lost = record + 1, bytearray(), offset + at, False
                at += 1
            else:
                found = part.find(b"\n>", at)
                stop = len(part) if found < 0 else found + 1
                letters = b"" if is_lost else part[at:stop].translate(None, WHITE)
                if letters:
                    yield _Event(record, offset + at, letters)
                at_line_start, at = part[stop - 1] == ord("\n"), stop
        offset += len(part)
    if title is not None:
        yield _Event(record, title_offset, _title(title))


def _title(data: bytearray) -> Title:
    return Title(bytes(data[:MAX_TITLE_BYTES]).rstrip(b"\r"), len(data) <= MAX_TITLE_BYTES)


class SequenceCutter:
    """Cuts a sequence while it streams by: places must be asked for in ascending order of their starts.

    `gap` is the damage that ended it early. Memory: what is asked for, and a piece.
    """

    def __init__(self, pieces: Iterable[bytes | Gap], start: int = 0) -> None:
        self._pieces, self._held, self._base = iter(pieces), bytearray(), start
        self.gap: Gap | None = None

    @property
    def n_seen(self) -> int:
        """Letters read so far: the sequence's length once nothing is left."""
        return self._base + len(self._held)

    def take(self, start: int, end: int) -> bytes:
        """The letters from `start` to `end`, fewer where the sequence ends before."""
        self._reach(start, start)
        self._reach(end, start)
        return bytes(self._held[start - self._base : end - self._base])

    def goes_beyond(self, place: int) -> bool:
        """Whether there is a letter at `place`."""
        self._reach(place + 1, self._base)
        return self.n_seen > place

    def finish(self) -> int:
        """The length of the sequence, read to its end."""
        while self._more():
            self._let_go(self.n_seen)
        return self.n_seen

    def _reach(self, place: int, keep_from: int) -> None:
        """Read up to `place`, letting go of what lies before `keep_from`."""
        self._let_go(keep_from)
        while self.n_seen < place and self._more():
            self._let_go(keep_from)

    def _let_go(self, before: int) -> None:
        n = min(before - self._base, len(self._held))
        if n > 0:
            del self._held[:n]
            self._base += n

    def _more(self) -> bool:
        piece = None if self.gap else next(self._pieces, None)
        if isinstance(piece, Gap):
            self.gap = piece
        if piece is None or isinstance(piece, Gap):
            return False
        self._held += piece
        return True
