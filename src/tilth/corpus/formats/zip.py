"""Reads a zip archive by its directory (APPNOTE 6.3, with Zip64), member by member, with bounds; a damage costs its member only.

The standard library's `zipfile` holds an object for every entry, however many a small file claims, and gives the whole
archive up at the first entry that is damaged or badly named.
"""

from __future__ import annotations

import stat
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple

from tilth.corpus.formats.content import DamagedError

LOCAL, ENTRY, END = b"PK\3\4", b"PK\1\2", b"PK\5\6"
END64, LOCATOR64 = b"PK\6\6", b"PK\6\7"
LOCAL_HEAD = struct.Struct("<4s5H3L2H")
ENTRY_HEAD = struct.Struct("<4s6H3L5H2L")
END_HEAD = struct.Struct("<4s4H2LH")
END64_HEAD = struct.Struct("<4sQ2H2L4Q")
LOCATOR64_HEAD = struct.Struct("<4sLQL")
MAX_COMMENT_BYTES, MAX_DIRECTORY_BYTES = 0xFFFF, 64 << 20
STORED, DEFLATED = 0, 8
ENCRYPTED, UTF8 = 0x1, 0x800
UNIX = 3


class ZipDamage(NamedTuple):
    """A place where the archive is not one; `reason` is bad_header, truncated or too_large."""

    offset: int
    reason: str
    detail: str


@dataclass(frozen=True)
class ZipMember:
    """A member as the directory has it; `read` unpacks it."""

    name: str
    size_bytes: int
    offset: int  # of its header
    kind: str  # file, link, folder, device
    _stream: BinaryIO
    _raw_name: bytes
    _flags: int
    _method: int
    _crc: int
    _packed_bytes: int

    def read(self) -> bytes:
        """The bytes of the member. Raises DamagedError (damaged, truncated, encrypted, unsupported) if they are not all there."""
        if self._flags & ENCRYPTED:
            raise DamagedError("encrypted", "the member is encrypted")
        if self._method not in (STORED, DEFLATED):
            raise DamagedError("unsupported", f"compression method {self._method}")
        # the largest that deflate makes of anything: 5 bytes a block of 16 KB, a little for blocks that hold nothing
        if self._packed_bytes > self.size_bytes + (self.size_bytes >> 11) + 1024:
            raise DamagedError("damaged", f"{self._packed_bytes} packed bytes of {self.size_bytes}")
        data = self._unpacked(self._packed())
        if len(data) != self.size_bytes or zlib.crc32(data) != self._crc:
            raise DamagedError("damaged", "the checksum or the size does not hold")
        return data

    def _packed(self) -> bytes:
        self._stream.seek(self.offset)
        head = self._stream.read(LOCAL_HEAD.size)
        if len(head) < LOCAL_HEAD.size or not head.startswith(LOCAL):
            raise DamagedError("damaged", f"no member begins at byte {self.offset}")
        *_, n_name, n_extra = LOCAL_HEAD.unpack(head)
        if self._stream.read(n_name) != self._raw_name:
            raise DamagedError("damaged", "the member's own header has another name")
        self._stream.read(n_extra)
        packed = self._stream.read(self._packed_bytes)
        if len(packed) < self._packed_bytes:
            raise DamagedError("truncated", f"{len(packed)} of {self._packed_bytes} packed bytes")
        return packed

    def _unpacked(self, packed: bytes) -> bytes:
        if self._method == STORED:
            return packed
        try:
            return zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, self.size_bytes + 1)
        except zlib.error as error:
            raise DamagedError("damaged", str(error)) from None


def is_zip(head: bytes) -> bool:
    """Whether a file that begins with `head` is a zip archive, an empty one included."""
    return head.startswith((LOCAL, END))


def read_zip(stream: BinaryIO) -> Iterator[ZipMember | ZipDamage]:
    """Yield members and damages in the order of the directory. What lies before the archive (a program, say) is passed over."""
    found = _directory(stream)
    if isinstance(found, ZipDamage):
        yield found
        return
    directory, begin, shift = found
    at, is_lost = 0, False
    while at < len(directory):
        entry = _entry(stream, directory, at, shift)
        if entry is None:
            if not is_lost:
                yield ZipDamage(begin + at, "bad_header", "no entry of the directory begins here")
            is_lost = True
            at = directory.find(ENTRY, at + 1)
            if at < 0:
                return
            continue
        is_lost = False
        member, n_bytes = entry
        at += n_bytes
        yield member


def _directory(stream: BinaryIO) -> tuple[bytes, int, int] | ZipDamage:
    """(the directory, its offset, how much further than they say all offsets lie)."""
    size = stream.seek(0, 2)
    stream.seek(max(0, size - MAX_COMMENT_BYTES - END_HEAD.size))
    base, tail = stream.tell(), stream.read(MAX_COMMENT_BYTES + END_HEAD.size)
    at = _end(tail)
    if at < 0:
        return ZipDamage(size, "truncated", "the archive has no end")
    *_, n_bytes, offset, _ = END_HEAD.unpack_from(tail, at)
    end = base + at
    if LOCATOR64_HEAD.size <= at and tail.startswith(LOCATOR64, at - LOCATOR64_HEAD.size):
        large = _end64(stream, end, LOCATOR64_HEAD.unpack_from(tail, at - LOCATOR64_HEAD.size)[2])
        if large is None:
            return ZipDamage(end, "bad_header", "no Zip64 end of the directory where one should be")
        end, n_bytes, offset = large
    if n_bytes > MAX_DIRECTORY_BYTES:
        return ZipDamage(end, "too_large", f"{n_bytes} bytes of directory, at most {MAX_DIRECTORY_BYTES}")
    begin = end - n_bytes
    if begin < offset:
        return ZipDamage(end, "bad_header", f"{n_bytes} bytes of directory at byte {offset} do not end at byte {end}")
    stream.seek(begin)
    return stream.read(n_bytes), begin, begin - offset


def _end(tail: bytes) -> int:
    """Where the end of the directory is: the last one whose comment ends with the file, else the last; -1 if there is none."""
    last = at = tail.rfind(END, 0, max(0, len(tail) - END_HEAD.size + len(END)))
    while at >= 0:
        if at + END_HEAD.size + END_HEAD.unpack_from(tail, at)[-1] == len(tail):
            return at
        at = tail.rfind(END, 0, at + len(END) - 1)
    return last


def _end64(stream: BinaryIO, end: int, offset: int) -> tuple[int, int, int] | None:
    """(where the Zip64 end begins, bytes of the directory, its offset)."""
    for place in (offset, end - LOCATOR64_HEAD.size - END64_HEAD.size):  # the second where something lies before the archive
        if 0 <= place <= end - END64_HEAD.size:
            stream.seek(place)
            head = stream.read(END64_HEAD.size)
            if len(head) == END64_HEAD.size and head.startswith(END64):
                *_, n_bytes, begin = END64_HEAD.unpack(head)
                return place, n_bytes, begin
    return None


def _entry(stream: BinaryIO, directory: bytes, at: int, shift: int) -> tuple[ZipMember, int] | None:
    """(member, bytes of its entry) at a place of the directory; None if there is none."""
    if len(directory) - at < ENTRY_HEAD.size or not directory.startswith(ENTRY, at):
        return None
    (_, made_by, _, flags, method, _, _, crc, packed, size, n_name, n_extra, n_comment, _, _, attributes, offset) = (
        ENTRY_HEAD.unpack_from(directory, at)
    )
    name_at = at + ENTRY_HEAD.size
    n_bytes = ENTRY_HEAD.size + n_name + n_extra + n_comment
    if at + n_bytes > len(directory):
        return None
    raw = directory[name_at : name_at + n_name]
    extra = directory[name_at + n_name : name_at + n_name + n_extra]
    size, packed, offset = _sizes64(extra, [size, packed, offset])
    name = _name(raw, flags)
    kind = _kind(name, attributes >> 16 if made_by >> 8 == UNIX else 0)
    return ZipMember(name, size, offset + shift, kind, stream, raw, flags, method, crc, packed), n_bytes


def _sizes64(extra: bytes, sizes: list[int]) -> list[int]:
    """Size, packed size and offset, those that are too large for 32 bits from the Zip64 field."""
    at = 0
    while at + 4 <= len(extra):
        kind, n_bytes = struct.unpack_from("<2H", extra, at)
        if kind == 1:
            field = extra[at + 4 : at + 4 + n_bytes]
            large = iter(struct.unpack(f"<{len(field) // 8}Q", field[: len(field) // 8 * 8]))
            return [next(large, size) if size == 0xFFFFFFFF else size for size in sizes]
        at += 4 + n_bytes
    return sizes


def _name(raw: bytes, flags: int) -> str:
    """UTF-8 where the flag says so or where it is; else code page 437. It ends at a NUL."""
    raw = raw.partition(b"\0")[0]
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("utf-8", "surrogateescape") if flags & UTF8 else raw.decode("cp437")


def _kind(name: str, mode: int) -> str:
    if stat.S_ISLNK(mode):
        return "link"
    if name.endswith("/") or stat.S_ISDIR(mode):
        return "folder"
    return "file" if stat.S_IFMT(mode) in (0, stat.S_IFREG) else "device"
