"""Reads single members of a 7z archive as a stream of bytes that is pushed; nothing is ever written under a member's name."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO

from tilth.errors import SourceError

MAX_MEMORY_BYTES = 256 << 20  # dictionary or model that a member may ask for
MAX_HEADER_BYTES = 64 << 20
LZMA, LZMA2, PPMD = b"\x03\x01\x01", b"\x21", b"\x03\x04\x01"
UNSAFE = re.compile(r"^(?:[/\\]|[A-Za-z]:)|(?:^|[/\\])\.\.(?:[/\\]|$)|\0")


class ArchiveRefusedError(Exception):
    """An archive or a member that cannot or must not be read; `reason` is a word for rejects/1."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


@dataclass(frozen=True)
class Member:
    """A file in the archive: its name, its size unpacked, and whether its name leads out of the folder."""

    name: str
    size_bytes: int
    unsafe: bool


def list_members(file: BinaryIO) -> list[Member]:
    """The files of an archive, by name. Raises ArchiveRefusedError (damaged, encrypted, too_large)."""
    found: list[Member] = _guarded(lambda: _members(_opened(file)))
    return found


def read_member(file: BinaryIO, name: str, take: Callable[[bytes], None], max_ratio: int, free_bytes: int = 64 << 20) -> None:
    """Push the bytes of a member into `take`, in order.

    Raises ArchiveRefusedError (damaged, encrypted, too_large, unsupported) as soon as it is known, after what came before.
    """
    most = free_bytes + max_ratio * file.seek(0, io.SEEK_END)
    _guarded(lambda: _extract(_opened(file), name, take, most))


def _opened(file: BinaryIO) -> Any:
    import py7zr

    file.seek(0)
    head = file.read(32)
    if len(head) == 32 and int.from_bytes(head[20:28], "little") > MAX_HEADER_BYTES:
        raise ArchiveRefusedError("too_large", "the header of the archive")
    file.seek(0)
    archive = py7zr.SevenZipFile(file)
    if archive.needs_password():
        raise ArchiveRefusedError("encrypted", "the archive needs a password")
    streams = archive.header.main_streams
    for folder in streams.unpackinfo.folders if streams else []:
        for coder in folder.coders:
            needed = _memory(bytes(coder["method"]), bytes(coder.get("properties") or b""))
            if needed > MAX_MEMORY_BYTES:
                raise ArchiveRefusedError("too_large", f"a coder asks for {needed} bytes of memory, at most {MAX_MEMORY_BYTES}")
    return archive


def _memory(method: bytes, properties: bytes) -> int:
    """What a coder allocates, by its properties (7zFormat.txt, Methods.txt)."""
    if method == LZMA2 and properties:
        bits = properties[0]
        return 0xFFFFFFFF if bits >= 40 else (2 | (bits & 1)) << (bits // 2 + 11)
    if method in (LZMA, PPMD) and len(properties) >= 5:
        return int.from_bytes(properties[1:5], "little")
    return 0


def _members(archive: Any) -> list[Member]:
    found = [file for file in archive.files if not file.is_directory]
    return [
        Member(str(file.filename), int(file.uncompressed), bool(UNSAFE.search(str(file.filename))) or not file.is_file)
        for file in found
    ]


def _extract(archive: Any, name: str, take: Callable[[bytes], None], most: int) -> None:
    from py7zr.io import Py7zIO, WriterFactory

    class Pushed(Py7zIO):
        n_bytes = 0

        def write(self, s: bytes | bytearray) -> int:
            self.n_bytes += len(s)
            if self.n_bytes > most:
                raise ArchiveRefusedError("too_large", f"{name} is larger than {most} bytes")
            take(bytes(s))
            return len(s)

        def read(self, size: int | None = None) -> bytes:
            return b""

        def seek(self, offset: int, whence: int = 0) -> int:
            return offset

        def flush(self) -> None:
            pass

        def size(self) -> int:
            return self.n_bytes

    class Factory(WriterFactory):
        def create(self, filename: str) -> Py7zIO:
            return Pushed()

    archive.extract(targets=[name], factory=Factory())


def _guarded(work: Callable[[], Any]) -> Any:
    """py7zr meets damage with errors of many kinds; all of them mean that the archive cannot be read."""
    from py7zr.exceptions import UnsupportedCompressionMethodError

    try:
        return work()
    except (ArchiveRefusedError, SourceError, MemoryError):
        raise
    except UnsupportedCompressionMethodError as error:
        raise ArchiveRefusedError("unsupported", str(error)[:200]) from None
    except Exception as error:
        raise ArchiveRefusedError("damaged", f"{type(error).__name__}: {error}"[:200]) from None
