"""Damaged archives: every record before the damage is there, every damage is reported, nothing hangs."""

from __future__ import annotations

import gzip
import io
import random
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tilth.corpus.archive import ArchivedRecord, Damage, read_archive

KINDS = frozenset({"response", "conversion"})
Records = Callable[[int], list[bytes]]
Compress = Callable[..., bytes]


def read(
    path: Path, data: bytes, kinds: frozenset[str] = KINDS, limit: int = 1 << 20
) -> tuple[list[ArchivedRecord], list[Damage]]:
    path.write_bytes(data)
    found = list(read_archive(path, kinds, limit))
    return [r for r in found if isinstance(r, ArchivedRecord)], [d for d in found if isinstance(d, Damage)]


@pytest.mark.parametrize("form", ["plain", "members", "one member"])
def test_whole_archives(tmp_path: Path, pages: Records, members: Compress, form: str) -> None:
    records = pages(5)
    data = {"plain": b"".join(records), "members": members(records), "one member": gzip.compress(b"".join(records))}[form]
    found, damage = read(tmp_path / "a.warc", data)
    assert [record.headers["warc-target-uri"] for record in found] == [f"http://example.org/{i}" for i in range(5)]
    assert not damage
    if form == "plain":
        assert [data[record.offset :].startswith(b"WARC/1.0") for record in found] == [True] * 5
    if form == "one member":
        assert [b"".join(records)[record.offset :].startswith(b"WARC/1.0") for record in found] == [True] * 5
        assert len({record.offset for record in found}) == 5
    if form == "members":
        assert [gzip.decompress(data[record.offset :])[:8] for record in found] == [b"WARC/1.0"] * 5


@pytest.mark.parametrize("form", ["plain", "members"])
def test_a_cut_at_any_byte_costs_one_record(tmp_path: Path, pages: Records, members: Compress, form: str) -> None:
    records = pages(3)
    stored = records if form == "plain" else [members([record]) for record in records]
    data = b"".join(stored)
    starts = [0, len(stored[0]), len(stored[0]) + len(stored[1]), len(data)]
    separator = 4 if form == "plain" else 0
    for cut in range(1, len(data), 3 if form == "plain" else 1):
        found, damage = read(tmp_path / "a.warc", data[:cut])
        n_whole = sum(start <= cut + separator for start in starts[1:])
        n_begun = sum(start < cut for start in starts[:-1])
        assert len(found) == n_whole, cut
        assert [d.reason for d in damage] == ["truncated"] * (n_begun > n_whole), (cut, damage)


def test_a_cut_in_an_archive_of_one_member(tmp_path: Path, pages: Records) -> None:
    data = gzip.compress(b"".join(pages(40)))
    counts = set()
    for cut in range(20, len(data), 9):
        found, damage = read(tmp_path / "a.warc.gz", data[:cut])
        assert [record.headers["warc-target-uri"] for record in found] == [f"http://example.org/{i}" for i in range(len(found))]
        assert [d.reason for d in damage] == ["truncated"], cut
        counts.add(len(found))
    assert {0, 1, 20, 39} <= counts | {40}


def test_blocks_of_gzip_that_ignore_records(tmp_path: Path, pages: Records) -> None:
    data = b"".join(pages(9))
    blocks = b"".join(gzip.compress(data[i : i + 700], mtime=0) for i in range(0, len(data), 700))
    found, damage = read(tmp_path / "a.warc.gz", blocks)
    assert (len(found), damage) == (9, [])


def test_damage_in_the_middle_costs_one_member(tmp_path: Path, pages: Records, members: Compress) -> None:
    records = pages(4)
    data = bytearray(members(records))
    second = len(members(records[:1]))
    data[second + 60] ^= 0xFF
    data[second + 61] ^= 0xFF
    found, damage = read(tmp_path / "a.warc.gz", bytes(data))
    assert [record.headers["warc-target-uri"][-1] for record in found] == ["0", "2", "3"]
    assert [(d.offset, d.reason) for d in damage] == [(second, "bad_record")]


@pytest.mark.parametrize("byte", range(4))
@pytest.mark.parametrize("form", ["plain", "members"])
def test_damage_in_the_first_bytes_costs_one_record(
    tmp_path: Path, pages: Records, members: Compress, form: str, byte: int
) -> None:
    records = pages(4)
    for bit in range(8):
        data = bytearray(members(records) if form == "members" else b"".join(records))
        data[byte] ^= 1 << bit
        found, damage = read(tmp_path / "a.warc.gz", bytes(data))
        # a flag of a gzip header can be harmless, and then there is no damage
        lost = [] if len(found) == 4 else [0]
        assert [record.headers["warc-target-uri"][-1] for record in found] == ["0", "1", "2", "3"][len(lost) :], bit
        assert [d.offset for d in damage] == lost, bit


def test_a_torn_member_that_the_parser_passes_over(tmp_path: Path, pages: Records, members: Compress) -> None:
    first, second, third = (members([record]) for record in pages(3))
    torn = bytearray(second)
    torn[3] |= 4  # promises an extra field of some 60 kB
    found, damage = read(tmp_path / "a.warc.gz", first + bytes(torn) + third)
    assert [record.headers["warc-target-uri"][-1] for record in found] == ["0", "2"]
    assert [d.offset for d in damage] == [len(first)]


def test_a_wrong_checksum_of_a_large_member(tmp_path: Path, pages: Records, members: Compress, warc_record: Compress) -> None:
    large = members([warc_record(random.Random(0).randbytes(200_000))])
    first, last = members(pages(1)), members(pages(2)[1:])
    for place in range(1, 9):
        data = bytearray(first + large + last)
        data[len(first) + len(large) - place] ^= 1
        found, damage = read(tmp_path / "a.warc.gz", bytes(data))
        assert [record.headers["warc-target-uri"][-1] for record in found] == ["0", "1"]
        assert [(d.offset, d.reason) for d in damage] == [(len(first), "bad_record")]


def test_a_record_without_a_type(tmp_path: Path, pages: Records) -> None:
    first, second = pages(2)
    odd = first.replace(b"WARC-Type", b"wARC-Type")
    assert len(read(tmp_path / "a.warc", odd + second)[0]) == 2
    found, damage = read(tmp_path / "b.warc", first.replace(b"WARC-Type", b"WARC-Tyqe") + second)
    assert (len(found), [(d.offset, d.reason) for d in damage]) == (1, [(0, "bad_record")])


def test_garbage_between_records(tmp_path: Path, pages: Records, members: Compress) -> None:
    first, second = pages(2)
    for data in (first + b"what is this\r\nhere\r\n" + second, members([first]) + b"junk" * 9 + members([second])):
        found, damage = read(tmp_path / "a.warc", data)
        assert len(found) == 2
        assert [d.reason for d in damage] == ["bad_record"]


def test_a_wrong_length_does_not_swallow_what_follows(tmp_path: Path, pages: Records, warc_record: Compress) -> None:
    records = [warc_record(b"short", kind="conversion", length=10_000), *pages(2)]
    found, damage = read(tmp_path / "a.warc", b"".join(records))
    assert [record.headers["warc-target-uri"][-1] for record in found] == ["0", "1"]
    assert [(d.offset, d.reason) for d in damage] == [(0, "bad_record")]


@pytest.mark.parametrize("length", ["x", "-1", "", "9" * 5000, "99999999999999999999"])
def test_absurd_lengths(tmp_path: Path, pages: Records, warc_record: Compress, length: str) -> None:
    found, damage = read(tmp_path / "a.warc", warc_record(b"abc", Content_Length=length) + pages(1)[0])
    assert len(found) == 1
    assert [d.reason for d in damage] == ["bad_record"]


def test_headers_in_any_case_spacing_and_folding(tmp_path: Path) -> None:
    head = b"WARC/1.0\r\nwarc-type:conversion\r\nWarc-Target-URI: http://example.org/\r\n a\r\ncontent-length:   4\r\n\r\n"
    (record,), damage = read(tmp_path / "a.warc", head + b"abcd\r\n\r\n")
    assert (record.block, record.headers["warc-target-uri"]) == (b"abcd", "http://example.org/ a")
    assert not damage


def test_large_records_are_passed_over(tmp_path: Path, warc_record: Compress, pages: Records) -> None:
    found, damage = read(tmp_path / "a.warc", warc_record(b"x" * 5000) + pages(1)[0], limit=2000)
    assert (len(found), [d.reason for d in damage]) == (1, ["too_large"])


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x1f\x8b",
        b"W",
        b"not an archive",
        b"filedesc://x 0.0.0.0 20240101 text/plain 1\n",
        gzip.compress(b"", mtime=0),
        bytes(500),
    ],
)
def test_what_is_no_archive_is_one_reject(tmp_path: Path, data: bytes) -> None:
    found, damage = read(tmp_path / "a.warc", data)
    assert (len(found), len(damage)) == (0, 1)


def test_zstd_and_lz4(tmp_path: Path, pages: Records) -> None:
    from fastwarc.stream_io import Lz4Writer, ZstdWriter

    for kind in (ZstdWriter, Lz4Writer):
        stream = io.BytesIO()
        writer = kind(stream)
        writer.write(b"".join(pages(3)))
        writer.finish()
        writer.flush()
        found, damage = read(tmp_path / "a.warc.x", stream.getvalue())
        assert (len(found), damage) == (3, [])


@given(
    edits=st.lists(
        st.tuples(st.floats(0, 1), st.integers(0, 255), st.sampled_from(["set", "cut", "insert", "drop"])), min_size=1, max_size=6
    )
)
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_mutations_never_raise(
    tmp_path: Path, pages: Records, members: Compress, edits: list[tuple[float, int, str]]
) -> None:  # fmt: skip
    for stored in (b"".join(pages(3)), members(pages(3)), gzip.compress(b"".join(pages(3)))):
        data = bytearray(stored)
        for where, value, kind in edits:
            at = int(where * max(0, len(data) - 1))
            if kind == "set" and data:
                data[at] = value
            elif kind == "cut":
                del data[at:]
            elif kind == "insert":
                data[at:at] = bytes([value]) * 7
            else:
                del data[at : at + value]
        found, damage = read(tmp_path / "m.warc", bytes(data))
        assert len(found) <= 3 + len(edits)
        assert found or damage


def test_a_flipped_bit_in_gzip_is_noticed(tmp_path: Path, pages: Records, members: Compress) -> None:
    good = members(pages(2))
    n_noticed = 0
    for at in range(10, len(good), 7):  # past the ten bytes of header, which carry no content
        data = bytearray(good)
        data[at] ^= 1
        found, damage = read(tmp_path / "a.warc.gz", bytes(data))
        texts = [record.block for record in found]
        assert all(block in b"".join(pages(2)) for block in texts), at
        n_noticed += bool(damage)
    assert n_noticed >= len(range(10, len(good), 7)) - 4  # the header of the second member is ten bytes as well


@pytest.mark.data
@pytest.mark.parametrize(
    "folder", ["warcio", "resiliparse_warc", "jwat_invalid", "webarchive_commons", "whirlwind_cc", "dolma_warc", "ukwa_suite"]
)
def test_real_archives(test_data: Path, folder: str) -> None:
    files = [
        file for file in sorted((test_data / folder).rglob("*")) if {".warc", ".arc", ".gz", ".wet", ".bad"} & set(file.suffixes)
    ]
    assert files
    for file in files:
        found = list(read_archive(file, KINDS, 64 << 20))
        n_damage = sum(isinstance(item, Damage) for item in found)
        if folder == "jwat_invalid" and file.name.startswith("valid-"):
            assert n_damage == 0, file.name
        if ".arc" in file.suffixes:
            assert n_damage == 1, file.name  # ARC is another format
        if file.name == "clipped.warc.gz":
            assert [item.reason for item in found if isinstance(item, Damage)] == ["truncated"]
        if file.name == "whirlwind.warc.wet.gz":
            text = found[0].block.decode()  # type: ignore[union-attr]
            assert (len(found), zlib.crc32(text.encode())) == (
                1,
                zlib.crc32(gzip.decompress(file.read_bytes())[-len(text.encode()) - 4 : -4]),
            )
