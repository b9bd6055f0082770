"""The content of a stream of a file (local or remote): unpacked as `compressed` does it, as a file object or as lines."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO, NamedTuple, cast

from tilth.corpus.formats.compressed import Gap, UnpackLimits, packed_form, unpack

MAX_RATIO = 250  # packed text stays below 30, a gzip bomb is near 1000
LIMITS = UnpackLimits(max_ratio=MAX_RATIO)
PIECE_BYTES = 1 << 18


class DamagedError(Exception):
    """The packed bytes are damaged, end too early or grow without bound; `reason` is a word for rejects/1."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail


class Line(NamedTuple):
    """A line without its line feed; `data` is None if it is longer than allowed (it was read and let go)."""

    number: int  # from 1
    offset: int  # of its first byte in the unpacked content
    data: bytes | None
    size_bytes: int


class Cut(NamedTuple):
    """A damage of the packed bytes: the line that it cuts is lost, and what lies between it and the next good member."""

    number: int  # of the line that is lost
    offset: int
    reason: str
    detail: str


def unpacked(stream: BinaryIO, limits: UnpackLimits = LIMITS) -> Iterator[bytes | Gap]:
    """The unpacked bytes of a seekable stream, and its damages, in order."""
    return unpack(stream, limits=limits)


def decompressed(stream: BinaryIO, max_bytes: int | None = None) -> BinaryIO:
    """A readable stream of the unpacked bytes. Reading raises DamagedError at the first damage, or beyond `max_bytes`.

    What comes before a damage is given out first.
    """
    limits = LIMITS if max_bytes is None else UnpackLimits(max_bytes, MAX_RATIO)
    head = stream.read(16)
    stream.seek(0)
    if packed_form(head) == "plain":
        return stream
    return cast(BinaryIO, io.BufferedReader(_Parts(unpacked(stream, limits)), PIECE_BYTES))


def peek(stream: BinaryIO, n_bytes: int) -> tuple[bytes, BinaryIO]:
    """(the first bytes, a stream that gives them once more before the rest)."""
    head = stream.read(n_bytes)
    return head, cast(BinaryIO, io.BufferedReader(_Parts(_chain(head, stream)), PIECE_BYTES))


def lines(parts: Iterable[bytes | Gap], max_line_bytes: int) -> Iterator[Line | Cut]:
    """Lines, cut at line feeds only; after a damage a new line begins. Memory stays at `max_line_bytes` and a part."""
    number, offset = 1, 0
    held: list[bytes] = []  # the pieces of the line that is not complete
    n_held = 0
    for part in parts:
        if isinstance(part, Gap):
            yield Cut(number, offset, part.reason, f"packed byte {part.offset}: {part.detail}")
            number, offset, held, n_held = number + (1 if n_held else 0), offset + n_held, [], 0
            continue
        start = 0
        while (end := part.find(b"\n", start)) >= 0:
            n_bytes = n_held + end + 1 - start
            whole = n_bytes - 1 <= max_line_bytes
            yield Line(number, offset, b"".join([*held, part[start:end]]) if whole else None, n_bytes)
            number, offset, held, n_held, start = number + 1, offset + n_bytes, [], 0, end + 1
        n_held += len(part) - start
        held = [*held, part[start:]] if n_held <= max_line_bytes else []
    if n_held:
        yield Line(number, offset, b"".join(held) if n_held <= max_line_bytes else None, n_held)


def decode_marked(data: bytes, encoding: str) -> tuple[str, str]:
    """Decode what a byte order mark has told; damage is replaced, and the encoding's name then ends in `+replace`."""
    try:
        return data.decode(encoding), encoding
    except UnicodeDecodeError:
        return data.decode(encoding, "replace"), f"{encoding}+replace"


def _chain(head: bytes, rest: BinaryIO) -> Iterator[bytes]:
    if head:
        yield head
    while data := rest.read(PIECE_BYTES):
        yield data


class _Parts(io.RawIOBase):
    """Parts one after another as a raw stream; a gap raises DamagedError."""

    def __init__(self, parts: Iterator[bytes | Gap]) -> None:
        self._parts = parts
        self._left = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._left:
            part = next(self._parts, None)
            if part is None:
                return 0
            if isinstance(part, Gap):
                raise DamagedError(part.reason, f"packed byte {part.offset}: {part.detail}")
            self._left = memoryview(part)
        n_bytes = min(len(buffer), len(self._left))
        buffer[:n_bytes] = self._left[:n_bytes]
        self._left = self._left[n_bytes:]
        return n_bytes
