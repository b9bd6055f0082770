"""Reads a tar archive as a stream (ustar, pax, GNU), member by member, with bounds; a damaged header costs its member only.

The standard library's `tarfile` reads a header's extension however long it says to be, and stops at the first damage.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

BLOCK = 512
MAX_EXTENSION_BYTES = 1 << 20  # of long names and pax records
SKIP_BYTES = 1 << 20
KINDS = {
    b"0": "file", b"\0": "file", b"7": "file", b"1": "link", b"2": "link",
    b"3": "device", b"4": "device", b"5": "folder", b"6": "device",
}  # fmt: skip
PAX_RECORD = re.compile(rb"(\d+) ([^=\n]+)=")


@dataclass
class Member:
    """A member; `read` gives its bytes once, before the next member is asked for."""

    name: str
    size_bytes: int
    offset: int  # of its header
    kind: str  # file, link, folder, device
    _stream: BinaryIO
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
    """Yield members and damages in order. After a damaged header, reading goes on at the next block that is a header."""
    at, extension, lost = 0, dict[str, str](), None
    while block := stream.read(BLOCK):
        offset, at = at, at + len(block)
        if len(block) < BLOCK:
            if block.strip(b"\0"):
                yield TarDamage(offset, "truncated", f"{len(block)} bytes of a header")
            return
        if not block.strip(b"\0"):
            if lost is None and not stream.read(BLOCK).strip(b"\0"):
                return
            at += BLOCK if lost is None else 0
            continue
        size = _size(block) if _checksum_holds(block) else None
        if size is None:
            if lost is None:
                lost = offset
                yield TarDamage(offset, "bad_header", "the checksum or the size does not hold")
            continue
        lost = None
        padded = -(-size // BLOCK) * BLOCK
        kind = block[156:157]
        if kind in (b"L", b"K", b"x", b"g"):
            data = stream.read(min(padded, MAX_EXTENSION_BYTES))
            if kind != b"g":
                extension |= _extension(kind, data[:size])
            at += len(data) + _skip(stream, padded - len(data))
            continue
        name = extension.get("path") or _name(block)
        size = int(extension["size"]) if extension.get("size", "").isdecimal() else size
        extension = {}
        known = KINDS.get(kind, "file")
        known = "folder" if known == "file" and name.endswith("/") else known
        n_bytes = size if known == "file" else 0
        member = Member(name, n_bytes, offset, known, stream, n_bytes)
        yield member
        padded = -(-n_bytes // BLOCK) * BLOCK
        n_rest = padded - (n_bytes - member._n_left)
        skipped = _skip(stream, n_rest)
        at += padded - n_rest + skipped
        if skipped < n_rest and at < offset + BLOCK + n_bytes:
            yield TarDamage(offset, "truncated", f"{name}: {at - offset - BLOCK} of {n_bytes} bytes")
            return


def _skip(stream: BinaryIO, n_bytes: int) -> int:
    n_left = n_bytes
    while n_left and (data := stream.read(min(n_left, SKIP_BYTES))):
        n_left -= len(data)
    return n_bytes - n_left


def _checksum_holds(block: bytes) -> bool:
    stated = _number(block[148:156])
    blank = block[:148] + b" " * 8 + block[156:]
    signed = sum(byte - 256 if byte > 127 else byte for byte in blank) if stated != sum(blank) else stated
    return stated is not None and stated in (sum(blank), signed)


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
