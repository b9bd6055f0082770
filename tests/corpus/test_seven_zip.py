"""Members of a 7z archive are pushed out in order; bombs, damage and names that lead elsewhere are refused."""

from __future__ import annotations

import io
import random
import zlib

import pytest

from tilth.corpus.formats.seven_zip import MAX_MEMORY_BYTES, ArchiveRefusedError, _memory, list_members, read_member

py7zr = pytest.importorskip("py7zr")
DATA = b"".join(b"line %d\n" % i for i in range(50_000))


def archive(members: dict[str, bytes], **options: object) -> io.BytesIO:
    file = io.BytesIO()
    with py7zr.SevenZipFile(file, "w", **options) as written:
        for name, data in members.items():
            written.writestr(data, name)
    return file


def content(file: io.BytesIO, name: str, max_ratio: int = 1000) -> bytes:
    parts: list[bytes] = []
    read_member(file, name, parts.append, max_ratio)
    return b"".join(parts)


def test_a_member_comes_out_alone() -> None:
    file = archive({"a/Posts.xml": DATA, "Users.xml": b"users"})
    assert [(member.name, member.size_bytes, member.unsafe) for member in list_members(file)] == [
        ("a/Posts.xml", len(DATA), False), ("Users.xml", 5, False),
    ]  # fmt: skip
    assert content(file, "a/Posts.xml") == DATA
    assert content(file, "Users.xml") == b"users"


def test_a_member_comes_in_pieces() -> None:
    chance = random.Random(0)
    file = archive({"Posts.xml": chance.randbytes(20_000_000)}, filters=[{"id": py7zr.FILTER_COPY}])
    sizes: list[int] = []
    read_member(file, "Posts.xml", lambda data: sizes.append(len(data)), 1000)
    assert sum(sizes) == 20_000_000
    assert max(sizes) <= 8 << 20


def test_a_bomb_is_refused() -> None:
    file = archive({"Posts.xml": bytes(20_000_000)})
    with pytest.raises(ArchiveRefusedError, match="too_large"):
        read_member(file, "Posts.xml", lambda data: None, max_ratio=10, free_bytes=1_000_000)


def test_memory_that_a_coder_may_ask_for() -> None:
    assert _memory(b"\x21", b"\x28") > MAX_MEMORY_BYTES  # LZMA2, 4 GB
    assert _memory(b"\x21", b"\x18") == 16 << 20
    assert _memory(b"\x03\x01\x01", b"\x5d" + (1 << 26).to_bytes(4, "little")) == 64 << 20
    assert _memory(b"\x04\x02\x02", b"") == 0


def test_encryption_and_what_is_no_archive() -> None:
    with pytest.raises(ArchiveRefusedError, match=r"encrypted|damaged"):
        list_members(archive({"Posts.xml": DATA}, password="x"))
    for data in (b"", b"PK\3\4", b"7z\xbc\xaf\x27\x1c", b"7z\xbc\xaf\x27\x1c" + b"\xff" * 40):
        with pytest.raises(ArchiveRefusedError):
            list_members(io.BytesIO(data))


@pytest.mark.parametrize("name", ["../Posts.xml", "/etc/Posts.xml", "a/../../Posts.xml", "C:\\Posts.xml", "..\\Posts.xml"])
def test_names_that_lead_elsewhere(name: str) -> None:
    placeholder = "".join("x" if byte in "./\\:" else byte for byte in name)
    file = io.BytesIO()
    with py7zr.SevenZipFile(file, "w") as written:
        written.set_encoded_header_mode(False)
        written.writestr(DATA, placeholder)
    raw = bytearray(file.getvalue())
    at = raw.index(placeholder.encode("utf-16-le"))
    raw[at : at + 2 * len(name)] = name.encode("utf-16-le")
    header = bytes(raw[32 + int.from_bytes(raw[12:20], "little") :])
    raw[28:32] = zlib.crc32(header).to_bytes(4, "little")
    raw[8:12] = zlib.crc32(raw[12:32]).to_bytes(4, "little")
    assert [member.unsafe for member in list_members(io.BytesIO(bytes(raw)))] == [True]


def test_any_damaged_byte_is_refused_or_harmless() -> None:
    chance = random.Random(1)
    whole = archive({"Posts.xml": DATA[:5000], "Users.xml": b"u"}).getvalue()
    n_refused = 0
    for _ in range(200):
        data = bytearray(whole)
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        try:
            names = [member.name for member in list_members(io.BytesIO(bytes(data)))]
            if "Posts.xml" in names:
                content(io.BytesIO(bytes(data)), "Posts.xml")
        except ArchiveRefusedError:
            n_refused += 1
    assert n_refused > 100
