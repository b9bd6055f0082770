"""What an archive file holds, as bytes to look at before they are taken: plain, or gzip, zstd or lz4 members one after another.

A gap (damage, the end of the file inside a member, a bomb) ends the bytes at hand; `cross` goes on at the next
member behind it. Every member has its place in the file, and a member counts as whole only when its checksum was read.
"""

from __future__ import annotations

import re
import zlib
from collections import deque
from collections.abc import Callable
from itertools import takewhile
from typing import Any, BinaryIO, NamedTuple

from tilth.corpus.formats import decompressors

PIECE_BYTES = 1 << 15  # packed bytes taken at a time: about a member, so that little is handed back
OUTPUT_BYTES = 1 << 20
SEAM_BYTES = 10_000  # longer than what tells that a record begins
STEP_BYTES = 16  # packed bytes at a time where a decoder is about to fail
FREE_BYTES, MAX_RATIO = 64 << 20, 250  # unpacked bytes of one member that are believed; pages pack 3 to 30 times
FREE_WORK, MAX_WORK = 64 << 20, 16  # a file is read at most 16 times over, however its damages are laid
MAX_DICTIONARY_BYTES = 16 << 20
MAGICS = {
    "gzip": re.compile(rb"\x1f\x8b\x08[\x00-\x1f]"),
    "zstd": re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18"),
    "lz4": re.compile(rb"\x04\x22\x4d\x18|[\x50-\x5f]\x2a\x4d\x18"),
}
SKIPPABLE = re.compile(rb"[\x50-\x5f]\x2a\x4d\x18")
DICTIONARY = b"\x5d\x2a\x4d\x18"
FAULTS = (OSError, EOFError, ValueError, RuntimeError, MemoryError, zlib.error)


class Place(NamedTuple):
    """Where a byte lies: the file offset of its member, how far into it, and how far from the beginning, both unpacked."""

    member: int
    inner: int
    position: int


class Gap(NamedTuple):
    """Why the bytes at hand end: at the member at `offset`. An empty reason is the end of a whole file."""

    offset: int
    reason: str  # truncated, bad_record, too_large, or "" at the end
    detail: str


class Feed:
    """The unpacked bytes from `position` on. `begins` tells whether some unpacked bytes begin like a record."""

    def __init__(self, file: BinaryIO, begins: Callable[[bytes], bool], find_start: Callable[[bytes], int | None]) -> None:
        self._file, self._begins, self._find_start = file, begins, find_start
        self.size = file.seek(0, 2)
        self._n_left = FREE_WORK + MAX_WORK * self.size
        self._n_free = FREE_BYTES  # halved by each bomb: a file of many takes no longer than one of a few
        self._buffer, self._taken, self.position = bytearray(), 0, 0
        self._members: deque[tuple[int, int]] = deque()  # (position, file offset) of members at hand and the one before
        self.gap: Gap | None = None
        self._dictionary: Any = None
        self._decoder: Any = None
        self._n_in = self._n_out = self._n_last = 0
        self._pending, self._offset = b"", 0  # packed bytes read but not used, and the file offset behind them
        self.form = self._tell_form()
        self._seek(0)
        if self.form == "plain":
            self._members.append((0, 0))

    # -- looking

    def fill(self, n_bytes: int) -> int:
        """Have `n_bytes` at hand, or all up to the next gap; returns how many are at hand."""
        while len(self._buffer) - self._taken < n_bytes and self.gap is None:
            self._pull()
        return len(self._buffer) - self._taken

    def peek(self, n_bytes: int, at: int = 0) -> bytes:
        """Up to `n_bytes` that are at hand, from `at` bytes on."""
        return bytes(self._buffer[self._taken + at : self._taken + at + n_bytes])

    def place(self, at: int = 0) -> Place:
        """The place of the byte `at` bytes on."""
        position = self.position + at
        begun, offset = position, self._offset
        for start, member in self._members:
            if start > position:
                break
            begun, offset = start, member
        return Place(offset, position - begun, position)

    def starts_within(self, n_bytes: int) -> list[int]:
        """How far on members begin, of those behind the next byte and before `n_bytes`."""
        last = self.position + n_bytes
        near = takewhile(lambda member: member[0] < last, self._members)
        return [begun - self.position for begun, _ in near if begun > self.position]

    # -- taking

    def take(self, n_bytes: int) -> None:
        """Let go of bytes at hand."""
        self._taken += n_bytes
        self.position += n_bytes
        if (self._taken > OUTPUT_BYTES and self._taken * 2 > len(self._buffer)) or self._taken == len(self._buffer):
            del self._buffer[: self._taken]
            self._taken = 0
        while len(self._members) > 1 and self._members[1][0] <= self.position:
            self._members.popleft()

    def skip(self, n_bytes: int) -> int:
        """Let go of bytes at hand or not; returns how many there were before a gap or before a member that begins a record."""
        n_done = 0
        while n_done < n_bytes and (n_here := self.fill(1)):
            n_here = min(n_here, n_bytes - n_done)
            stops = [at for at in self.starts_within(n_here + 1) if self.fill(at + 64) > at and self._begins(self.peek(64, at))]
            if stops:
                self.take(stops[0])
                return n_done + stops[0]
            self.take(n_here)
            n_done += n_here
            if self.form == "plain" and n_done < n_bytes and self.gap is None:
                n_there = min(n_bytes - n_done, self.size - self.position)
                self._seek(self.position + n_there)
                self.position += n_there
                n_done += n_there
        return n_done

    def rewind(self, place: Place) -> None:
        """Go back to a place that was let go of; costs unpacking its member again."""
        self.gap = None
        self._buffer, self._taken, self.position = bytearray(), 0, place.position - place.inner
        self._members.clear()
        self._seek(place.position if self.form == "plain" else place.member)
        if self.form == "plain":
            self.position = place.position
            self._members.append((0, 0))
            return
        n_left = place.inner
        while n_left and (n_here := self.fill(1)):
            self.take(min(n_left, n_here))
            n_left -= min(n_left, n_here)

    def cross(self) -> None:
        """Go on behind the gap, at the next member that can be unpacked; the end is not crossed."""
        if self.gap is None or not self.gap.reason:
            return
        offset = self._next_member(self.gap.offset + 1)
        self.gap = None if offset is not None else Gap(self.size, "", "")
        self._decoder = None
        self._seek(self.size if offset is None else offset)

    # -- unpacking

    def _pull(self) -> None:
        if self._n_left < 0:
            self.gap = Gap(self.place().member, "", "")
            return
        if self.form == "plain":
            data = self._file.read(OUTPUT_BYTES)
            self._n_left -= len(data)
            self._buffer += data
            self.gap = None if data else Gap(self.size, "", "")
        elif self._decoder is None:
            self._begin_member()
        else:
            self._unpack_some()

    @property
    def is_worn_out(self) -> bool:
        """Whether reading ended because damage made too much of the file to be read again and again."""
        return self._n_left < 0

    def _begin_member(self) -> None:
        self._pending = self._pending.lstrip(b"\0")  # padding
        while not self._pending and self._more():
            self._pending = self._pending.lstrip(b"\0")
        while len(self._pending) < 8 and self._more():
            pass
        offset = self._offset - len(self._pending)
        if not self._pending:
            self.gap = Gap(self.size, "", "")
        elif self.form != "gzip" and SKIPPABLE.match(self._pending):
            self._skippable(offset)
        elif MAGICS[self.form].match(self._pending):
            self._decoder, self._n_in, self._n_out = self._decoder_of(self.form), 0, 0
            self._members.append((self.position + len(self._buffer) - self._taken, offset))
        else:
            cut = len(self._pending) < 4 and self._offset >= self.size
            self.gap = Gap(offset, "truncated" if cut else "bad_record", f"no {self.form} member begins here")

    def _unpack_some(self) -> None:
        decoder = self._decoder
        offset = self._members[-1][1]
        data = b""
        if decoder.needs_input:
            if not self._pending and not self._more():
                self.gap = Gap(offset, "truncated", f"the file ends inside this {self.form} member")
                return
            data, self._pending = self._pending, b""
            self._n_in += len(data)
            self._n_last = len(data)
        try:
            part = decoder.decompress(data, OUTPUT_BYTES)
        except FAULTS as error:
            self._buffer += self._salvage(offset)
            self.gap = Gap(offset, "bad_record", f"a damaged {self.form} member: {str(error) or type(error).__name__}")
            return
        self._buffer += part
        self._n_out += len(part)
        if decoder.eof:
            self._pending = bytes(decoder.unused_data or b"")
            self._decoder = None
        elif self._n_out > self._n_free + MAX_RATIO * self._n_in:
            self._n_free //= 2
            self.gap = Gap(offset, "too_large", f"{self._n_out} bytes unpacked from {self._n_in}, and more to come")

    def _salvage(self, offset: int) -> bytes:
        """What the damaged member at `offset` gives besides what it gave: a decoder that fails keeps that to itself."""
        decoder, n_in, n_seen, found = self._decoder_of(self.form), 0, 0, bytearray()
        self._file.seek(offset)
        try:
            while n_in < self._n_in:
                coarse = self._n_in - self._n_last - n_in
                data = self._file.read(min(PIECE_BYTES, coarse) if coarse > 0 else STEP_BYTES)
                n_in += len(data)
                while data or not decoder.needs_input:
                    part = decoder.decompress(data, OUTPUT_BYTES)
                    found += part[max(0, self._n_out - n_seen) :]
                    n_seen, data = n_seen + len(part), b""
                if decoder.eof:
                    break
        except FAULTS:
            pass
        self._n_left -= n_in
        return bytes(found)

    def _more(self) -> bool:
        data = self._file.read(PIECE_BYTES)
        self._offset += len(data)
        self._n_left -= len(data)
        self._pending += data
        return bool(data)

    def _seek(self, offset: int) -> None:
        self._file.seek(offset)
        self._offset, self._pending, self._decoder = offset, b"", None

    def _decoder_of(self, form: str) -> Any:
        if form == "zstd":
            return decompressors.Zstd(self._dictionary)
        return decompressors.Gzip() if form == "gzip" else decompressors.lz4()

    def _skippable(self, offset: int) -> None:
        """Pass a skippable frame; the first of a `.warc.zst` may be the dictionary of all others (IIPC WARC-zstd 1.0, 3)."""
        n_bytes = int.from_bytes(self._pending[4:8], "little")
        is_dictionary = self._pending.startswith(DICTIONARY) and offset == 0 and n_bytes <= MAX_DICTIONARY_BYTES
        self._seek(offset + 8)
        if is_dictionary:
            data = self._file.read(n_bytes)
            self._dictionary = _dictionary(data)
            if len(data) == n_bytes and self._dictionary is None:
                self.gap = Gap(offset, "bad_record", "a damaged zstd dictionary")
        if offset + 8 + n_bytes > self.size:
            self.gap = Gap(offset, "truncated", "the file ends inside this skippable frame")
        self._seek(min(self.size, offset + 8 + n_bytes))

    # -- finding

    def _tell_form(self) -> str:
        """What the file is by its first bytes or, where these are damaged, by the first record behind them."""
        self._file.seek(0)
        head = self._file.read(1 << 16)
        for form, magic in MAGICS.items():
            if magic.match(head) and not (form == "zstd" and SKIPPABLE.match(head) and b"\x04\x22\x4d\x18" in head):
                return form
        if len(head) < 4 and b"\x1f\x8b\x08".startswith(head[:3]) and head:
            return "gzip"
        if self._begins(head[:64]) or not head:
            return "plain"
        found = {form: offset for form in MAGICS if (offset := self._next_member(0, form)) is not None}
        plain = self._first_plain(min(found.values(), default=self.size))
        if plain is None and not found and head.startswith(b"\x1f\x8b"):
            return "gzip"
        return "plain" if plain is not None or not found else min(found, key=found.__getitem__)

    def _first_plain(self, end: int) -> int | None:
        self._file.seek(0)
        held, base = b"", 0
        while base < end and (data := self._file.read(OUTPUT_BYTES)):
            self._n_left -= len(data)
            held += data
            if (at := self._find_start(held)) is not None:
                return base + at if base + at < end else None
            base, held = base + max(0, len(held) - SEAM_BYTES), held[-SEAM_BYTES:]
        return None

    def _next_member(self, offset: int, form: str = "") -> int | None:
        """The next offset at which a member of the form can be unpacked."""
        form = form or self.form
        magic = MAGICS.get(form)
        while magic is not None and offset < self.size and self._n_left >= 0:
            self._file.seek(offset)
            data = self._file.read(OUTPUT_BYTES)
            self._n_left -= len(data)
            for match in magic.finditer(data):
                if self._can_unpack(offset + match.start(), form):
                    return offset + match.start()
            offset += max(1, len(data) - 8) if len(data) == OUTPUT_BYTES else self.size
        return None

    def _can_unpack(self, offset: int, form: str) -> bool:
        self._file.seek(offset)
        data = self._file.read(4096)
        self._n_left -= len(data)
        if form != "gzip" and SKIPPABLE.match(data):
            return False
        decoder = self._decoder_of(form)
        try:
            return len(decoder.decompress(data, 64)) > 0 or (decoder.eof or (len(data) == 4096 and form != "gzip"))
        except FAULTS:
            return False


def _dictionary(data: bytes) -> Any:
    """A dictionary as it is or packed with zstd; None if it is neither."""
    from backports import zstd

    try:
        if MAGICS["zstd"].match(data) and not SKIPPABLE.match(data):
            data = zstd.ZstdDecompressor().decompress(data, MAX_DICTIONARY_BYTES)
        return zstd.ZstdDict(data)
    except (zstd.ZstdError, ValueError):
        return None
