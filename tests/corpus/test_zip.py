"""Members of a zip archive, as the standard library writes them and after every kind of damage."""

from __future__ import annotations

import io
import random
import stat
import struct
import zipfile
import zlib

import pytest

from tilth.corpus.formats.content import DamagedError
from tilth.corpus.formats.zip import ZipDamage, ZipMember, is_zip, read_zip

FILES = {
    "a/README.md": b"# A\n" * 500,
    "b.txt": b"b",
    "empty": b"",
    "a/\u00e9\u4e2d.md": b"names",
    "c.bin": bytes(range(256)) * 40,
}


def written(files: dict[str, bytes] = FILES, method: int = zipfile.ZIP_DEFLATED, comment: bytes = b"") -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        archive.comment = comment
        for name, data in files.items():
            archive.writestr(name, data)
    return file.getvalue()


def members(data: bytes) -> list[ZipMember | ZipDamage]:
    return list(read_zip(io.BytesIO(data)))


def contents(data: bytes) -> dict[str, bytes | str]:
    """What each member holds, or why it cannot be read."""
    found: dict[str, bytes | str] = {}
    for member in members(data):
        if isinstance(member, ZipDamage):
            found[f"@{member.offset}"] = member.reason
            continue
        try:
            found[member.name] = member.read()
        except DamagedError as error:
            found[member.name] = error.reason
    return found


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("comment", [b"", b"a comment", b"PK\5\6" + bytes(40)])
@pytest.mark.parametrize("before", [b"", b"#!/bin/sh\nexit\n" * 9000])
def test_all_members_come_out(method: int, comment: bytes, before: bytes) -> None:
    data = written(method=method)
    assert contents(before + written(method=method, comment=comment)) == FILES
    assert is_zip(data)
    assert not is_zip(b"PK")


def test_an_archive_without_members_and_one_without_an_end() -> None:
    assert contents(written({})) == {}
    data = written()
    for cut in (0, 10, len(data) // 2, len(data) - 1):
        assert [(one.offset, one.reason) for one in members(data[:cut])] == [(cut, "truncated")]


def test_zip64(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 100)
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 2)
    data = written()
    assert b"PK\6\6" in data
    assert contents(data) == FILES
    assert contents(bytes(1000) + data) == FILES
    broken = data.replace(b"PK\6\6", b"PK\0\0")
    assert [one.reason for one in members(broken)] == ["bad_header"]


def test_kinds_and_names() -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, mode in (("link", stat.S_IFLNK), ("pipe", stat.S_IFIFO), ("file", stat.S_IFREG), ("folder/", stat.S_IFDIR)):
            info = zipfile.ZipInfo(name)
            info.create_system, info.external_attr = 3, (mode | 0o644) << 16
            archive.writestr(info, b"" if name.endswith("/") else b"target")
    assert {one.name: one.kind for one in members(file.getvalue())} == {
        "link": "link", "pipe": "device", "file": "file", "folder/": "folder",
    }  # fmt: skip
    data = written({"caf_.md": b"x"})
    assert members(data.replace(b"caf_", b"caf\x82"))[0].name == "caf\u00e9.md", "code page 437"
    assert members(data.replace(b"caf_", "ca\u00e9".encode()))[0].name == "ca\u00e9.md", "UTF-8 that does not say so"
    assert members(data.replace(b"caf_", b"ca\0_"))[0].name == "ca"


def test_a_damage_costs_its_member_alone() -> None:
    data = bytearray(written(method=zipfile.ZIP_STORED))
    at = data.index(b"names")
    data[at] ^= 1
    assert contents(bytes(data)) == {**FILES, "a/\u00e9\u4e2d.md": "damaged"}
    entry = data.index(b"PK\1\2", data.index(b"PK\1\2") + 1)
    data[entry] = 0
    found = contents(bytes(data))
    assert found.pop(f"@{entry}") == "bad_header"
    assert found == {name: text for name, text in contents(written()).items() if name != "b.txt"} | {
        "a/\u00e9\u4e2d.md": "damaged"
    }


def test_a_header_with_another_name_an_encrypted_member_and_another_compression() -> None:
    data = written({"one.md": b"1"}).replace(b"one.md", b"two.md", 1)
    assert contents(data) == {"one.md": "damaged"}
    assert contents(written(FILES, zipfile.ZIP_LZMA))["b.txt"] == "unsupported"
    data = bytearray(written({"one.md": b"1"}))
    data[data.index(b"PK\1\2") + 8] |= 1
    assert contents(bytes(data)) == {"one.md": "encrypted"}


def test_sizes_that_lie_take_no_memory() -> None:
    data = bytearray(written({"bomb": bytes(5_000_000)}))
    entry = data.index(b"PK\1\2")
    data[entry + 24 : entry + 28] = struct.pack("<L", 10)
    assert contents(bytes(data)) == {"bomb": "damaged"}
    data[entry + 20 : entry + 24] = struct.pack("<L", 1 << 31)
    assert contents(bytes(data)) == {"bomb": "damaged"}
    end = data.index(b"PK\5\6")
    data[end + 12 : end + 16] = struct.pack("<L", 1 << 30)
    assert [one.reason for one in members(bytes(data))] == ["too_large"]
    data[end + 12 : end + 16] = struct.pack("<L", end + 5)
    assert [one.reason for one in members(bytes(data))] == ["bad_header"]


def test_any_damage_ends_in_members_and_damages() -> None:
    whole, chance = written(), random.Random(7)
    known = {name: zlib.crc32(data) for name, data in FILES.items()}
    for _ in range(1500):
        data = bytearray(whole)
        for _ in range(chance.randint(1, 4)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        for name, found in contents(bytes(data)).items():
            assert isinstance(found, str) or name not in known or zlib.crc32(found) in known.values()
