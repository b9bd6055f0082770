"""Reads the records of a WARC file one at a time and goes on after damage; every loss is reported with its offset.

FastWARC parses; this module notices what it passes over in silence (a record that is shorter than it
says, a gzip member that is torn), reads the header itself where FastWARC does not (2.0.1 takes a valid
`content-length:  9` for none, and no type from `wARC-Type`), and finds the next place to go on from.
"""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from fastwarc.warc import ArchiveIterator, WarcRecord

GZIP_MEMBER = re.compile(rb"\x1f\x8b\x08")
FIRST_LINE = re.compile(rb"WARC/[0-9]\.[0-9]{1,2}\r?\n")
PATTERNS = {"gzip": GZIP_MEMBER, "plain": FIRST_LINE}
FRAMES = (b"\x28\xb5\x2f\xfd", b"\x04\x22\x4d\x18")  # zstd, lz4
VERSIONS = (b"1.0", b"1.1", b"0.17", b"0.18")
HEAD_END = re.compile(rb"\r?\n\r?\n")
FOLD = re.compile(r"\r?\n[ \t]+")
CHUNK_BYTES = 1 << 20
MAX_HEAD_BYTES = 1 << 16
MAX_SEPARATOR_BYTES = 16


@dataclass(frozen=True)
class ArchivedRecord:
    """A record whose block is complete; header names are lower case."""

    offset: int
    kind: str
    headers: dict[str, str]
    block: bytes


@dataclass(frozen=True)
class Damage:
    """Something at `offset` that is lost; `reason` is a word for rejects/1."""

    offset: int
    reason: str  # truncated, bad_record, too_large, empty
    detail: str


@dataclass(frozen=True)
class _Ending:
    """How one run of the parser ended: the last record that it began, and what went wrong where."""

    last: int | None
    problem: str | None
    inside: bool = False  # the problem is in the last record itself


def read_archive(path: Path, kinds: frozenset[str], max_block_bytes: int) -> Iterator[ArchivedRecord | Damage]:
    """Yield the records of `kinds` and every damage, in the order of the file (gzip by record or whole, zstd, lz4, plain).

    Ends for any input: after damage it goes on at the next gzip member that holds a WARC record,
    or at the next line that begins one. zstd and lz4 files cannot be resumed. Raises OSError if the file cannot be opened.
    """
    with path.open("rb") as file:
        yield from _Reader(file, kinds, max_block_bytes).read()


Run = Generator[ArchivedRecord | Damage, None, _Ending]


class _Reader:
    def __init__(self, file: BinaryIO, kinds: frozenset[str], max_block_bytes: int) -> None:
        self.file: BinaryIO | _Inflated = file
        self.kinds, self.max_block_bytes = kinds, max_block_bytes
        self.form = self._form(file.read(4))
        if self.form == "gzip" and not _one_record_a_member(file):
            self.file, self.form = _Inflated(file), "plain"

    def _form(self, magic: bytes) -> str:
        """What the file is by its first bytes or, where these are damaged, by the first record behind them."""
        if magic.startswith((b"\x1f\x8b", b"WARC")) or magic in (b"", *FRAMES):
            return "gzip" if magic.startswith(b"\x1f") else "other" if magic in FRAMES else "plain"
        starts = {form: self._next_start(0, form) for form in PATTERNS}
        found = {form: start for form, start in starts.items() if start is not None}
        return min(found, key=found.__getitem__, default="gzip" if magic.startswith(b"\x1f") else "plain")

    def read(self) -> Iterator[ArchivedRecord | Damage]:
        start: int | None = 0
        unplaced: Damage | None = None  # damage between two records: the next run tells whose it was
        while start is not None:
            run = self._run(start)
            ending = yield from _after(unplaced, run)
            if ending.last is not None:
                unplaced = None
            if ending.problem is None:
                if ending.last is None and start == 0:
                    yield Damage(0, "empty", "no record in the file")
                return
            following = self._next_start(start + 1 if ending.last is None else ending.last + 1, self.form)
            if ending.last is None or ending.inside:
                at = start if ending.last is None else ending.last
                found = self._second_opinion(at)
                yield from [Damage(at, self._reason(at, following), ending.problem)] if found is None else found
                unplaced = None
            else:
                unplaced = self._damage_after(ending.last, following, ending.problem)
            start = following
        if unplaced is not None:
            yield unplaced

    def _run(self, start: int) -> Run:
        """Parse from `start` to the first problem."""
        last: int | None = None
        held: ArchivedRecord | Damage | None = None  # until what follows shows that its gzip member was whole
        self.file.seek(start)
        try:
            for record in ArchiveIterator(self.file, parse_http=False):
                if held is not None:
                    yield held
                last = record.stream_pos
                held, problem = self._take(record, last)
                if problem is not None:
                    return _Ending(last, problem, inside=True)
        except (OSError, ValueError, OverflowError) as error:
            inside = last is not None and self.form == "gzip" and self._member_end(last) in (None, last)
            if held is not None and not inside:
                yield held
            return _Ending(last, str(error), inside)
        if isinstance(self.file, _Inflated) and self.file.problem:
            if held is not None:
                yield held
            return _Ending(last, self.file.problem)
        torn = self._torn_member(start if last is None else last) if self.form == "gzip" else None
        if held is not None and torn != last:
            yield held
        if torn is None:
            return _Ending(last, None)
        is_cut = self._member_end(torn) is None
        return _Ending(last, "the file ends inside this gzip member" if is_cut else "a damaged gzip member", inside=torn == last)

    def _take(self, record: WarcRecord, offset: int) -> tuple[ArchivedRecord | Damage | None, str | None]:
        """Return the record (None if its kind is not wanted) or what is wrong with it."""
        headers = {name.lower(): value for name, value in record.headers.items()}
        kind = headers.get("warc-type", "").strip().lower()
        if not kind:
            return None, "no WARC-Type"
        given = headers.get("content-length", "")
        if not (given.isascii() and given.isdigit()):
            return None, f"no valid Content-Length: {given[:40]!r}"
        length = int(given)
        found: ArchivedRecord | Damage | None = None
        try:
            if kind in self.kinds and length <= self.max_block_bytes:
                block = record.reader.read(length) if length else b""
                while len(block) < length and (more := record.reader.read(length - len(block))):
                    block += more
                n_bytes = len(block)
                found = ArchivedRecord(offset, kind, headers, block)
            else:
                n_bytes = _skip(record, length)
                if kind in self.kinds:
                    found = Damage(offset, "too_large", f"{length} bytes of block, at most {self.max_block_bytes}")
        except (OSError, ValueError) as error:
            return None, str(error)
        return (found, None) if n_bytes == length else (None, f"{n_bytes} of {length} bytes of block")

    def _damage_after(self, last: int, following: int | None, problem: str) -> Damage:
        """The damage behind a record that is itself whole."""
        if self.form == "gzip" and (end := self._member_end(last)):
            return Damage(end, "truncated" if self._member_end(end) is None else "bad_record", problem)
        cut = self.file.is_cut if isinstance(self.file, _Inflated) else self._ends_like_a_record()
        reason = "truncated" if following is None and cut else "bad_record"
        return Damage(last, reason, f"after this record: {problem}")

    def _second_opinion(self, offset: int) -> list[ArchivedRecord] | None:
        """Read one record without FastWARC: a whole one of a wanted kind, none of an unwanted one, None if it is damaged."""
        if self.form == "gzip" and self._member_end(offset) in (None, offset):
            return None
        self.file.seek(offset)
        stream = gzip.GzipFile(fileobj=self.file) if self.form == "gzip" else self.file
        try:
            data = stream.read(MAX_HEAD_BYTES)
            end = HEAD_END.search(data)
            if end is None or not FIRST_LINE.match(data):
                return None
            headers = _headers(data[: end.start()])
            length = int(headers.get("content-length", ""))
            missing = min(length, self.max_block_bytes) - (len(data) - end.end())
            block = data[end.end() : end.end() + length] + (stream.read(missing) if missing > 0 else b"")
        except (OSError, EOFError, ValueError, zlib.error):
            return None
        kind = headers.get("warc-type", "").lower()
        if len(block) != length or not kind:
            return None
        return [ArchivedRecord(offset, kind, headers, block)] if kind in self.kinds else []

    def _reason(self, at: int, following: int | None) -> str:
        if self.form == "gzip":
            return "truncated" if self._member_end(at) is None else "bad_record"
        if following is not None:
            return "bad_record"
        self.file.seek(at)
        head = self.file.read(MAX_HEAD_BYTES)
        end = HEAD_END.search(head)
        complete = end is not None and not _headers(head[: end.start()]).get("content-length", "").isdigit()
        begun = FIRST_LINE.match(head) or _is_cut_line(head)
        return "truncated" if begun and not complete else "bad_record"

    def _ends_like_a_record(self) -> bool:
        """Whether the file ends within the first line of a record."""
        size = self.file.seek(0, 2)
        self.file.seek(max(0, size - 9))
        tail = self.file.read()
        return any(_is_cut_line(tail[i:]) for i in range(len(tail)))

    def _next_start(self, position: int, form: str) -> int | None:
        """The next offset from `position` on where a record of a file of this form can begin."""
        pattern = PATTERNS.get(form)
        while pattern is not None:
            self.file.seek(position)
            chunk = self.file.read(CHUNK_BYTES)
            for match in pattern.finditer(chunk):
                if self._is_start(position + match.start(), form):
                    return position + match.start()
            if len(chunk) < CHUNK_BYTES:
                break
            position += len(chunk) - 16
        return None

    def _is_start(self, offset: int, form: str) -> bool:
        if form == "plain":
            self.file.seek(max(0, offset - 1))
            return self.file.read(1) == b"\n" or offset == 0
        self.file.seek(offset)
        try:
            return zlib.decompressobj(31).decompress(self.file.read(4096), 5) == b"WARC/"
        except zlib.error:
            return False

    def _torn_member(self, offset: int) -> int | None:
        """The offset of the first gzip member that is cut or damaged, walking on from `offset`; None if all are whole."""
        while True:
            end = self._member_end(offset)
            if end is None or end == offset:
                return offset
            self.file.seek(end)
            if not self.file.read(1):
                return None
            offset = end

    def _member_end(self, offset: int) -> int | None:
        """Where the gzip member at `offset` ends; `offset` itself if it is damaged, None if the file ends first."""
        self.file.seek(offset)
        inflater = zlib.decompressobj(31)
        position = offset
        try:
            while chunk := self.file.read(CHUNK_BYTES):
                position += len(chunk)
                pending = chunk
                while pending and not inflater.eof:
                    inflater.decompress(pending, CHUNK_BYTES)
                    pending = inflater.unconsumed_tail
                if inflater.eof:
                    return position - len(inflater.unused_data)
        except zlib.error:
            return offset
        return None


class _Inflated:
    """A gzip file in which records do not begin with members, read as what it holds; damage is its end, told by `problem`."""

    def __init__(self, file: BinaryIO) -> None:
        file.seek(0)
        self.stream = gzip.GzipFile(fileobj=file)
        self.problem, self.is_cut = "", False

    def read(self, size: int = -1) -> bytes:
        try:
            parts = []
            while size and (part := self.stream.read1(size if size > 0 else CHUNK_BYTES)):
                parts.append(part)
                size -= len(part) if size > 0 else 0
        except (EOFError, OSError, zlib.error) as error:
            self.problem, self.is_cut = str(error), isinstance(error, EOFError)
        return b"".join(parts)

    def seek(self, offset: int, whence: int = 0) -> int:
        if whence == 2:
            while self.read(CHUNK_BYTES):
                pass
            return self.stream.tell()
        try:
            return self.stream.seek(offset, whence)
        except (EOFError, OSError, zlib.error) as error:
            self.problem, self.is_cut = str(error), isinstance(error, EOFError)
            return self.stream.tell()

    def tell(self) -> int:
        return self.stream.tell()

    def close(self) -> None:
        self.stream.close()


def _one_record_a_member(file: BinaryIO) -> bool:
    """Whether the first gzip member holds one record and nothing else, as archives should be; yes, if it is damaged."""
    file.seek(0)
    inflater = zlib.decompressobj(31)
    try:
        data = inflater.decompress(file.read(MAX_HEAD_BYTES), MAX_HEAD_BYTES)
        end = HEAD_END.search(data)
        length = int(_headers(data[: end.start()])["content-length"]) if end else -1
        if end is None or length < 0:
            return True
        n_bytes = len(data)
        while not inflater.eof and n_bytes <= end.end() + length + MAX_SEPARATOR_BYTES:
            chunk = inflater.unconsumed_tail or file.read(MAX_HEAD_BYTES)
            if not chunk:
                return True
            n_bytes += len(inflater.decompress(chunk, MAX_HEAD_BYTES))
    except (zlib.error, ValueError, KeyError):
        return True
    surplus = n_bytes - (end.end() + length)
    # a record that goes on in the next member is no more separate than two in one
    return 0 <= surplus <= MAX_SEPARATOR_BYTES or (not file.read(1) and surplus < 0)


def _after(pending: Damage | None, run: Run) -> Run:
    """Yield `pending` before the first record of `run`, if it has one."""
    while True:
        try:
            found = next(run)
        except StopIteration as stop:
            ending: _Ending = stop.value
            return ending
        if pending is not None:
            yield pending
            pending = None
        yield found


def _skip(record: WarcRecord, length: int) -> int:
    n_bytes = 0
    while n_bytes < length and (n := record.reader.consume(min(length - n_bytes, 1 << 24))):
        n_bytes += n
    return n_bytes


def _is_cut_line(data: bytes) -> bool:
    """Whether `data` is the beginning of a record's first line."""
    return data != b"" and any((b"WARC/%s\r\n" % version).startswith(data) for version in VERSIONS)


def _headers(head: bytes) -> dict[str, str]:
    # not splitlines: a URL may hold what Unicode counts as the end of a line
    lines = FOLD.sub(" ", head.decode("utf-8", "replace")).split("\n")[1:]
    pairs = (line.partition(":") for line in lines)
    return {name.strip().lower(): value.strip() for name, _, value in pairs}
