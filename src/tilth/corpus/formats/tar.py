"""Reads a tar archive as a stream (ustar, pax, GNU), member by member, with bounds; a damaged header costs its member only.

The standard library's `tarfile` reads a header's extension however long it says to be, and stops at the first damage.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

BLOCK = 512
MAX_EXTENSION_BYTES = 1 << 20  # of long names and pax records
SKIP_BYTES, SEARCH_BYTES = 1 << 20, 1 << 16
MAGIC, MAGIC_OFFSET = re.compile(rb"ustar"), 257
KINDS = {
    b"0": "file", b"\0": "file", b"7": "file", b"1": "link", b"2": "link",
    b"3": "device", b"4": "device", b"5": "folder", b"6": "device",
}  # fmt: skip
PAX_SIZE = re.compile("[0-9]{1,18}")
PAX_RECORD = re.compile(rb"(\d+) ([^=\n]+)=")


@dataclass
class Member:
    """A member; `read` gives its bytes once, before the next member is asked for."""

    name: str
    size_bytes: int
    offset: int  # of its header
    kind: str  # file, link, folder, device
    _stream: _Blocks
    _n_left: int = field(default=0)

    def read(self) -> bytes:
        """The bytes of the member, fewer than `size_bytes` if the archive ends before."""
        data = self._stream.read(self._n_left)
        self._n_left -= len(data)
        return data


@dataclass(frozen=True)
class TarDamage:
    """A place where the archive is not one; `reason` is bad_header or truncated."""

    offset: int
    reason: str
    detail: str


def is_tar(head: bytes) -> bool:
    """Whether the first 512 bytes are a tar header."""
    return len(head) >= BLOCK and _checksum_holds(head[:BLOCK])


def is_unsafe_name(name: str) -> bool:
    """Whether a member's name points out of the folder that it would be unpacked in."""
    parts = name.replace("\\", "/").split("/")
    return name.startswith(("/", "\\")) or ".." in parts or re.match(r"[A-Za-z]:", name) is not None


def read_tar(stream: BinaryIO) -> Iterator[Member | TarDamage]:
    """Yield members and damages in order. After damage, reading goes on at the next header, at whatever byte it lies."""
    blocks = _Blocks(stream)
    extension: dict[str, str] = {}
    while block := blocks.read(BLOCK):
        offset = blocks.offset - len(block)
        if not block.strip(b"\0"):
            extension = {}
            if not blocks.skip_zeros():
                return
            yield TarDamage(offset, "bad_header", "zeros where a member should begin")  # or an archive behind another
            blocks.find_header()
            continue
        size = _size(block) if is_tar(block) else None
        if size is None:
            extension = {}  # it was that of the member that is lost
            cut = len(block) < BLOCK
            detail = f"{len(block)} bytes of a header" if cut else "the checksum or the size does not hold"
            yield TarDamage(offset, "truncated" if cut else "bad_header", detail)
            blocks.unread(block)
            blocks.find_header(first=1)
            continue
        padded = -(-size // BLOCK) * BLOCK
        kind = block[156:157]
        if kind in (b"L", b"K", b"x", b"g"):
            data = blocks.read(min(padded, MAX_EXTENSION_BYTES))
            if kind != b"g":
                extension |= _extension(kind, data[:size])
            blocks.skip(padded - len(data))
            continue
        member = _member(block, extension, offset, blocks)
        extension = {}
        yield member
        blocks.skip(member._n_left)
        if blocks.offset < offset + BLOCK + member.size_bytes:
            n_bytes = blocks.offset - offset - BLOCK
            yield TarDamage(offset, "truncated", f"{member.name}: {n_bytes} of {member.size_bytes} bytes")
            return
        blocks.skip(-member.size_bytes % BLOCK)


def _member(block: bytes, extension: dict[str, str], offset: int, blocks: _Blocks) -> Member:
    name = extension.get("path") or _name(block)
    size = int(extension["size"]) if PAX_SIZE.fullmatch(extension.get("size", "")) else _size(block) or 0
    known = KINDS.get(block[156:157], "file")
    known = "folder" if known == "file" and name.endswith("/") else known
    n_bytes = size if known == "file" else 0
    return Member(name, n_bytes, offset, known, blocks, n_bytes)


class _Blocks:
    """The bytes of an archive, some of which are looked at before they are taken."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self._held, self.offset = stream, b"", 0

    def read(self, n_bytes: int) -> bytes:
        """The next bytes, fewer only at the end."""
        found, self._held = self._held[:n_bytes], self._held[n_bytes:]
        if len(found) < n_bytes:
            found += self._stream.read(n_bytes - len(found))
        self.offset += len(found)
        return found

    def unread(self, data: bytes) -> None:
        """Put back what was read last."""
        self._held = data + self._held
        self.offset -= len(data)

    def skip(self, n_bytes: int) -> None:
        """Let bytes go, fewer only at the end."""
        while n_bytes and (data := self.read(min(n_bytes, SKIP_BYTES))):
            n_bytes -= len(data)

    def skip_zeros(self) -> bool:
        """Go on to the next byte that is none; False if there is no other."""
        while data := self.read(SEARCH_BYTES):
            if rest := data.lstrip(b"\0"):
                self.unread(rest)
                return True
        return False

    def find_header(self, first: int = 0) -> None:
        """Go on to the next header behind `first` bytes: at its magic, in archives without one in steps of a block."""
        while data := self.read(SEARCH_BYTES):
            marked = (match.start() - MAGIC_OFFSET for match in MAGIC.finditer(data, first + MAGIC_OFFSET))
            begins = heapq.merge(marked, range(-(-first // BLOCK) * BLOCK, len(data), BLOCK))
            found = next((at for at in begins if is_tar(data[at : at + BLOCK])), None)
            if found is not None:
                self.unread(data[found:])
                return
            if len(data) == SEARCH_BYTES:
                self.unread(data[-BLOCK:])
            first = 0


def _checksum_holds(block: bytes) -> bool:
    stated = _number(block[148:156])
    if not stated:
        return False
    blank = block[:148] + b" " * 8 + block[156:]
    return stated == sum(blank) or stated == sum(byte - 256 if byte > 127 else byte for byte in blank)


def _size(block: bytes) -> int | None:
    size = _number(block[124:136])
    return size if size is not None and 0 <= size < 1 << 60 else None


def _number(data: bytes) -> int | None:
    if data[0] & 0x80:  # GNU: base 256
        return int.from_bytes(bytes([data[0] & 0x7F]) + data[1:], "big") if data[0] != 0xFF else None
    digits = data.strip(b" \0")
    if not digits:
        return 0
    return int(digits, 8) if re.fullmatch(rb"[0-7]+", digits) else None


def _name(block: bytes) -> str:
    name = block[:100].split(b"\0", 1)[0]
    if block[257:263] == b"ustar\0" and (prefix := block[345:500].split(b"\0", 1)[0]):
        name = prefix + b"/" + name
    return name.decode("utf-8", "surrogateescape")


def _extension(kind: bytes, data: bytes) -> dict[str, str]:
    if kind == b"L":
        return {"path": data.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")}
    if kind == b"K":
        return {}
    records: dict[str, str] = {}
    at = 0
    while match := PAX_RECORD.match(data, at):
        if len(match[1]) > 8 or int(match[1]) <= match.end() - at:
            break
        end = at + int(match[1])
        key = match[2].decode("utf-8", "replace")
        if key in ("path", "size"):
            records[key] = data[match.end() : end].removesuffix(b"\n").decode("utf-8", "surrogateescape")
        at = end
    return records
