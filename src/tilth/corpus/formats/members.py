"""The members of an archive, whatever its form: zip, tar (packed or not), and RubyGems' tar of a packed tar."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple, Protocol, cast

from tilth.corpus.formats.content import PIECE_BYTES, DamagedError, decompressed
from tilth.corpus.formats.tar import BLOCK, TarDamage, is_tar, read_tar
from tilth.corpus.formats.zip import ZipDamage, is_zip, read_zip

GEM_METADATA, GEM_DATA = "metadata.gz", "data.tar.gz"
MAX_GEM_PARTS = 100


class Member(Protocol):
    """A file, link, folder or device of an archive; `read` before the next one is asked for."""

    @property
    def name(self) -> str: ...  # as the archive has it: it may lead out of a folder
    @property
    def size_bytes(self) -> int: ...
    @property
    def kind(self) -> str: ...
    def read(self) -> bytes: ...


class Damage(NamedTuple):
    """What is lost at a byte of the archive; `reason` is a word for rejects/1."""

    offset: int
    reason: str
    detail: str


def read_members(stream: BinaryIO) -> Iterator[Member | Damage]:
    """Yield the members of a seekable archive, and its damages, in order; nothing is unpacked to disk.

    What packs a tar is told by its first bytes. A gem gives its metadata and then the members of its data.
    """
    stream.seek(0)
    head = stream.read(BLOCK)
    stream.seek(0)
    if is_zip(head):
        yield from _told(read_zip(stream))
    elif is_tar(head):
        parts = _gem_parts(stream)
        stream.seek(0)
        yield from _gem(stream, parts) if parts else _tar(stream)
    else:
        yield from _tar(stream)


def read_member(member: Member, max_bytes: int) -> bytes:
    """All bytes of a member. Raises DamagedError: too_large, truncated, damaged, encrypted, unsupported."""
    if member.size_bytes > max_bytes:
        raise DamagedError("too_large", f"{member.size_bytes} bytes, at most {max_bytes}")
    data = member.read()
    if len(data) != member.size_bytes:
        raise DamagedError("truncated", f"{len(data)} of {member.size_bytes} bytes")
    return data


def _told(members: Iterator[Member | TarDamage | ZipDamage]) -> Iterator[Member | Damage]:
    for member in members:
        if isinstance(member, TarDamage | ZipDamage):
            yield Damage(member.offset, member.reason, member.detail)
        else:
            yield member


def _tar(packed: BinaryIO) -> Iterator[Member | Damage]:
    """The members of a tar as far as it can be unpacked; what is no tar at all is one damage."""
    try:
        n_members = 0
        stream = decompressed(packed)
        for member in _told(read_tar(stream)):
            n_members += not isinstance(member, Damage)
            yield member
        if not n_members:
            yield Damage(0, "bad_header", "neither a zip nor a tar archive")
    except DamagedError as error:
        yield Damage(0, error.reason, str(error))


def _gem_parts(stream: BinaryIO) -> dict[str, tuple[int, int]]:
    """(offset, size) of the members that make a tar a gem; empty if it is none."""
    found = {}
    for i, member in enumerate(read_tar(stream)):
        if i == MAX_GEM_PARTS:
            break
        if not isinstance(member, TarDamage):
            found[member.name] = (member.offset + BLOCK, member.size_bytes)
    return found if GEM_METADATA in found else {}


def _gem(stream: BinaryIO, parts: dict[str, tuple[int, int]]) -> Iterator[Member | Damage]:
    offset, size = parts[GEM_METADATA]
    yield _Part(GEM_METADATA, size, stream, offset)
    if GEM_DATA not in parts:
        yield Damage(offset + size, "truncated", f"a gem without {GEM_DATA}")
        return
    window = _Window(stream, *parts[GEM_DATA])
    yield from _tar(cast(BinaryIO, io.BufferedReader(window, PIECE_BYTES)))


class _Part(NamedTuple):
    """A part of a file as a member."""

    name: str
    size_bytes: int
    stream: BinaryIO
    offset: int
    kind: str = "file"

    def read(self) -> bytes:
        self.stream.seek(self.offset)
        return self.stream.read(self.size_bytes)


class _Window(io.RawIOBase):
    """A part of a seekable stream as a stream of its own."""

    def __init__(self, stream: BinaryIO, begin: int, n_bytes: int) -> None:
        self._stream, self._begin, self._n_bytes, self._at = stream, begin, n_bytes, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = max(0, offset + (0, self._at, self._n_bytes)[whence])
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        self._stream.seek(self._begin + self._at)
        data = self._stream.read(min(len(buffer), max(0, self._n_bytes - self._at)))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)
