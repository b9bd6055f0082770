"""Damaged archives: every record before the damage is there, every damage is reported, nothing hangs."""

from __future__ import annotations

import gzip
import io
import random
import time
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tilth.corpus.formats.archive import ArchivedRecord, Damage, read_archive
from tilth.corpus.formats.archive_formats import ARC, WARC

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


def zstd_frames(records: list[bytes], dictionary: str) -> bytes:
    """Frames as browsertrix and the IIPC's proposal write them: an optional dictionary first, then a frame for each record."""
    from backports import zstd

    if dictionary == "none":
        return b"".join(zstd.compress(record) for record in records)
    samples = [b"%d " % i + records[i % len(records)] for i in range(200)]
    trained = zstd.train_dict(samples, 4000)
    stored = trained.dict_content if dictionary == "raw" else zstd.compress(trained.dict_content)
    head = b"\x5d\x2a\x4d\x18" + len(stored).to_bytes(4, "little") + stored
    return head + b"".join(zstd.compress(record, zstd_dict=trained) for record in records)


def frames(records: list[bytes], form: str) -> bytes:
    import lz4.frame

    if form == "lz4":
        return b"".join(lz4.frame.compress(record, content_checksum=True) for record in records)
    return zstd_frames(records, form)


FRAMED = ("none", "raw", "packed", "lz4")


@pytest.mark.parametrize("form", FRAMED)
def test_zstd_and_lz4_by_record(tmp_path: Path, pages: Records, form: str) -> None:
    data = frames(pages(6), form)
    found, damage = read(tmp_path / "a.warc.x", data)
    assert ([record.headers["warc-target-uri"][-1] for record in found], damage) == (list("012345"), [])
    magic = b"\x04\x22\x4d\x18" if form == "lz4" else b"\x28\xb5\x2f\xfd"
    assert [data[record.offset :][:4] for record in found] == [magic] * 6
    assert {record.inner for record in found} == {0}


@pytest.mark.parametrize("form", FRAMED)
def test_a_damaged_frame_costs_one_record(tmp_path: Path, pages: Records, form: str) -> None:
    data = frames(pages(5), form)
    found, _ = read(tmp_path / "a.warc.x", data)
    starts = [record.offset for record in found] + [len(data)]
    for place in range(starts[2], starts[3], 7):
        torn = bytearray(data)
        torn[place] ^= 0x55
        found, damage = read(tmp_path / "a.warc.x", bytes(torn))
        assert [record.headers["warc-target-uri"][-1] for record in found] in (list("0134"), list("01234")), place
        assert len(found) == 5 or [d.offset for d in damage] == [starts[2]], place
    cut = data[: starts[4] - 3]
    found, damage = read(tmp_path / "a.warc.x", cut)
    assert [record.headers["warc-target-uri"][-1] for record in found] == list("012")
    assert [(d.offset, d.reason) for d in damage] == [(starts[3], "truncated")]


def test_a_damaged_dictionary(tmp_path: Path, pages: Records) -> None:
    data = bytearray(zstd_frames(pages(3), "packed"))
    data[9:60] = bytes(51)
    found, damage = read(tmp_path / "a.warc.zst", bytes(data))
    assert not found
    assert {d.reason for d in damage} == {"bad_record"}


def test_zstd_and_lz4_as_a_whole(tmp_path: Path, pages: Records) -> None:
    from fastwarc.stream_io import Lz4Writer, ZstdWriter

    data = b"".join(pages(3))
    for kind in (ZstdWriter, Lz4Writer):
        stream = io.BytesIO()
        writer = kind(stream)
        writer.write(data)
        writer.finish()
        writer.flush()
        found, damage = read(tmp_path / "a.warc.x", stream.getvalue())
        assert (len(found), damage) == (3, [])
        assert [data[record.offset :][:8] for record in found] == [b"WARC/1.0"] * 3


def test_damage_in_a_whole_gzip_costs_what_lies_behind(tmp_path: Path, pages: Records) -> None:
    records = pages(60)
    noise = random.Random(1)
    records = [record.replace(b"</p>", noise.randbytes(300).hex().encode() + b"</p>" + b" " * 0, 1) for record in records]
    records = [rewritten(record) for record in records]
    data = bytearray(gzip.compress(b"".join(records)))
    half = len(data) // 2
    data[half : half + 50] = bytes(50)
    found, damage = read(tmp_path / "a.warc.gz", bytes(data))
    n_sure = 24  # of 60, of equal size: the damage is behind the thirtieth
    assert [record.block for record in found[:n_sure]] == [record.split(b"\r\n\r\n", 1)[1][:-4] for record in records[:n_sure]]
    assert len(damage) == 1


def rewritten(record: bytes) -> bytes:
    """The record with the length that it has."""
    head, _, rest = record.partition(b"\r\n\r\n")
    block = rest[:-4]
    head = b"\r\n".join(line for line in head.split(b"\r\n") if not line.startswith(b"Content-Length"))
    return head + b"\r\nContent-Length: %d\r\n\r\n" % len(block) + block + b"\r\n\r\n"


@pytest.mark.parametrize("form", ["gzip", "zstd"])
@pytest.mark.parametrize("claims", ["a terabyte", "little"])
def test_bombs_are_refused(tmp_path: Path, pages: Records, members: Compress, form: str, claims: str) -> None:
    """A member of gigabytes, in a record that says so or in none: a reject, and the records behind it are read."""
    from backports import zstd

    length = 1 << 40 if claims == "a terabyte" else 9
    head = b"WARC/1.0\r\nWARC-Type: response\r\nContent-Length: %d\r\n\r\n" % length
    if form == "gzip":
        packer = zlib.compressobj(9, zlib.DEFLATED, 31)
        first = packer.compress(head + bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
        zeros = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
        data = first + zeros * 4096 + members(pages(2))
    else:
        zeros = zstd.compress(head + bytes(1 << 30))
        data = zeros + zstd_frames(pages(2), "none")
    started = time.process_time()
    tracemalloc.start()
    found, damage = read(tmp_path / "a.warc.x", data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(found) == 2
    assert [(d.offset, d.reason) for d in damage] == [(0, "too_large" if claims == "a terabyte" else "bad_record")]
    assert peak < 200 << 20
    assert time.process_time() - started < 20


@pytest.mark.parametrize(
    "unit",
    [
        b"WARC/1.0\r\nWARC-Type: response\r\nContent-Length: 1000000\r\n\r\n",
        b"WARC/1.0\r\nWARC-Type: response\r\nContent-Length: 9000000000\r\n\r\n",
        b"WARC/1.0\r\nWARC-Type: response\r\nX: y\r\n",
        b"WARC/1.0\r\n",
        b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03",
        b"\x1f\x8b\x08\x08\x00\x00\x00\x00\x00\x03",
        gzip.compress(b"WARC/1.0\r\nWARC-Type: response\r\nContent-Length: 99999999\r\n\r\n", mtime=0)[:-4],
        b"\x28\xb5\x2f\xfd\x04\x58",
        b"\x50\x2a\x4d\x18\x00\x00\x00\x00",
        b"\x04\x22\x4d\x18\x64\x40\xa7",
        b"http://a 1.2.3.4 20080430204826 text/html 1000001\n",
        b"http://a ",
        b"\0",
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_nothing_takes_more_than_linear_time(tmp_path: Path, unit: bytes, packed: bool) -> None:
    data = unit * (1_000_000 // len(unit))
    (tmp_path / "a").write_bytes(gzip.compress(data, 1) if packed else data)
    started = time.process_time()
    for form in (WARC, ARC):
        assert not any(isinstance(found, ArchivedRecord) for found in read_archive(tmp_path / "a", KINDS, 64 << 20, form))
    assert time.process_time() - started < 15


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
