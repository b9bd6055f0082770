"""FASTA: windows, names, line ends, damage, indexes; every letter is in a document or in a reject that says where."""

from __future__ import annotations

import bz2
import gzip
import random
import struct
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tilth.corpus.formats.faidx import IndexedFasta, read_fai, read_gzi
from tilth.corpus.formats.fasta import SequenceCutter, records
from tilth.corpus.formats.nucleotides import find_other, reverse_complement
from tilth.corpus.records import Document, Reject
from tilth.corpus.sources.fasta import Fasta
from tilth.errors import SourceError


def rows(path: Path, **options: Any) -> list[Document | Reject]:
    source = Fasta(name="dna", path=str(path), **options)
    return [row for shard in source.plan() for row in source.read(shard)]


def read(tmp_path: Path, data: bytes | str, name: str = "a.fa", **options: Any) -> list[Document | Reject]:
    (tmp_path / name).write_bytes(data.encode() if isinstance(data, str) else data)
    return rows(tmp_path / name, **options)


def texts(found: list[Document | Reject]) -> list[tuple[str, int, int, str]]:
    documents = [row for row in found if isinstance(row, Document)]
    return [(one.meta["sequence"], int(one.meta["start"]), int(one.meta["end"]), one.text) for one in documents]


def reasons(found: list[Document | Reject]) -> list[str]:
    return [row.reason for row in found if isinstance(row, Reject)]


def bgzf(data: bytes, block: int = 200) -> tuple[bytes, bytes]:
    """The data in BGZF, and its .gzi."""
    packed, blocks = bytearray(), []
    for start in range(0, len(data), block):
        blocks.append((len(packed), start))
        part = data[start : start + block]
        deflate = zlib.compressobj(6, zlib.DEFLATED, -15)
        body = deflate.compress(part) + deflate.flush()
        head = struct.pack("<4BI2BH2BHH", 31, 139, 8, 4, 0, 0, 255, 6, 66, 67, 2, len(body) + 25)
        packed += head + body + struct.pack("<II", zlib.crc32(part), len(part))
    end = bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")
    gzi = struct.pack("<Q", len(blocks) - 1) + b"".join(struct.pack("<QQ", *pair) for pair in blocks[1:])
    return bytes(packed + end), gzi


def fai_of(data: bytes) -> str:
    """An index made line by line."""
    lines, offset, found = data.split(b"\n"), 0, []
    for line in lines:
        if line.startswith(b">"):
            found.append([line[1:].split()[0].decode(), 0, offset + len(line) + 1, 0, 0])
        elif line.strip() and found:
            found[-1][1] += len(line.strip())
            if not found[-1][3]:
                found[-1][3:] = [len(line.rstrip(b"\r")), len(line) + 1]
        offset += len(line) + 1
    return "".join("\t".join(map(str, entry)) + "\n" for entry in found)


def test_a_record_is_a_document_with_its_name_and_place(tmp_path: Path) -> None:
    (row,) = read(tmp_path, ">chr1  a first one \nACgt\nNRy\n", assembly="test1", licence="CC0-1.0")
    assert isinstance(row, Document)
    assert row.text == "ACgtNRy"
    assert row.meta == {
        "sequence": "chr1", "description": "a first one", "start": "0", "end": "7", "strand": "+",
        "file": "a.fa", "assembly": "test1",
    }  # fmt: skip
    assert row.occurrences[0].record_id == "chr1:0-7(+)"
    assert row.licences[0].spdx == "CC0-1.0"


@pytest.mark.parametrize("end", ["\n", "\r\n", "\n\n", " \r\n"])
@pytest.mark.parametrize("last", ["", "end"])
def test_line_ends_and_blank_lines_do_not_count(tmp_path: Path, end: str, last: str) -> None:
    data = end.join([">a b", "ACG", "TTA", ">c", "G G"]) + (end if last else "")
    assert texts(read(tmp_path, data)) == [("a", 0, 6, "ACGTTA"), ("c", 0, 2, "GG")]


def test_windows_tile_and_overlap_until_the_end_is_reached(tmp_path: Path) -> None:
    assert [one[1:3] for one in texts(read(tmp_path, ">a\nACGTACGTAC\n", window=4))] == [(0, 4), (4, 8), (8, 10)]
    assert [one[1:3] for one in texts(read(tmp_path, ">a\nACGTACGT\n", window=4))] == [(0, 4), (4, 8)]
    assert [one[1:3] for one in texts(read(tmp_path, ">a\nACGTACGTAC\n", window=6, stride=3))] == [(0, 6), (3, 9), (6, 10)]
    assert [one[1:3] for one in texts(read(tmp_path, ">a\nACGTACGTAC\n", window=2, stride=5))] == [(0, 2), (5, 7)]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.text(alphabet="ACGTNacgtn", max_size=40), min_size=1, max_size=4),
    st.integers(1, 15), st.integers(1, 20), st.integers(1, 12), st.integers(1, 9), st.sampled_from(["\n", "\r\n"]),
)  # fmt: skip
def test_windows_are_slices_however_the_bytes_arrive(
    sequences: list[str], window: int, stride: int, width: int, part: int, end: str
) -> None:
    data = "".join(
        f">s{i} x{end}" + "".join(text[at : at + width] + end for at in range(0, len(text), width))
        for i, text in enumerate(sequences)
    ).encode()
    pieces = [data[at : at + part] for at in range(0, len(data), part)]
    for record, text in zip(records(pieces), sequences, strict=True):
        cutter, start = SequenceCutter(record.pieces), 0
        while start < len(text):
            assert cutter.take(start, start + window).decode() == text[start : start + window]
            assert cutter.goes_beyond(start + window) == (len(text) > start + window)
            start += stride
        assert cutter.finish() == len(text)


def test_what_is_no_nucleotide_costs_its_window_and_says_where(tmp_path: Path) -> None:
    found = read(tmp_path, ">a\nACGT\nACJT\nAC-T\nAC\u00e9T\nACGT\n", window=4)
    assert [one[1] for one in texts(found)] == [0, 16, 20]  # é is two bytes, as an index counts
    details = [row.detail for row in found if isinstance(row, Reject)]
    assert [detail.split(" is")[0] for detail in details][:3] == ["'J' at 6 of `a`", "'-' at 10 of `a`", "'é' at 14 of `a`"]
    assert set(reasons(found)) == {"invalid_character"}


def test_records_that_give_no_document_are_rejects(tmp_path: Path) -> None:
    found = read(tmp_path, "ACGT\n>\nACGT\n>empty\n\n>twice\nAC\n>twice\nAC\n")
    assert reasons(found) == ["no_title", "no_name", "empty"]
    twice = [row for row in found if isinstance(row, Document)]
    assert [row.text for row in twice] == ["AC", "AC"]
    assert twice[0].doc_id != twice[1].doc_id
    assert reasons(read(tmp_path, ">")) == ["no_name"]
    assert read(tmp_path, "") == []
    assert reasons(read(tmp_path, b">" + b"x" * 70_000 + b"\nACGT\n")) == ["too_large"]


def test_a_long_record_is_refused_whole_and_read_in_windows(tmp_path: Path) -> None:
    data = ">a\n" + "ACGT" * 30 + "\n>b\nAC\n"
    found = read(tmp_path, data, max_document_bytes=100)
    assert (reasons(found), texts(found)) == (["too_large"], [("b", 0, 2, "AC")])
    assert len(texts(read(tmp_path, data, max_document_bytes=100, window=50))) == 4


def test_titles_need_not_be_utf_8(tmp_path: Path) -> None:
    (row,) = read(tmp_path, b"\xef\xbb\xbf>chr\xff caf\xc3\xa9\nACGT\n")
    assert isinstance(row, Document)
    assert row.meta["sequence"] == "chr\udcff"  # as names of files are: printed as \udcff
    assert row.meta["description"] == "café"


def test_50_million_letters_on_one_line_take_little_memory(tmp_path: Path) -> None:
    with open(tmp_path / "a.fa", "wb") as file:
        file.write(b">long\n")
        for _ in range(50):
            file.write(b"ACGTACGTAC" * 100_000)
    tracemalloc.start()
    n = sum(isinstance(row, Document) for row in iterate(tmp_path / "a.fa", window=100_000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert n == 500
    assert peak < 12 << 20


def iterate(path: Path, **options: Any) -> Any:
    source = Fasta(name="dna", path=str(path), **options)
    for shard in source.plan():
        yield from source.read(shard)


def sample(n: int = 5, seed: int = 1) -> bytes:
    rng = random.Random(seed)
    parts = []
    for i in range(n):
        text = "".join(rng.choices("ACGTacgtN", k=rng.randrange(30, 400)))
        parts.append(f">chr{i} number {i}\n" + "".join(f"{text[at : at + 60]}\n" for at in range(0, len(text), 60)))
    return "".join(parts).encode()


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lambda data: bgzf(data)[0]])
def test_packed_files_read_as_plain_ones(tmp_path: Path, pack: Any) -> None:
    data = sample()
    expected = texts(read(tmp_path, data, window=50))
    assert texts(read(tmp_path, pack(data), "b.fa.gz", window=50)) == expected


def test_a_truncated_file_loses_what_is_lost_and_says_so(tmp_path: Path) -> None:
    rng = random.Random(5)
    data = b"".join(b">c%d\n" % i + "".join(rng.choices("ACGT", k=5000)).encode() + b"\n" for i in range(8))
    whole = texts(read(tmp_path, data, window=100))
    packed = gzip.compress(data)
    found = read(tmp_path, packed[: len(packed) // 2], "b.fa.gz", window=100)
    assert reasons(found) == ["truncated"]
    assert texts(found) == whole[: len(texts(found))]
    assert 0.3 < len(texts(found)) / len(whole) < 0.7


def test_after_a_damaged_block_reading_goes_on_at_the_next_title(tmp_path: Path) -> None:
    data = sample(8)
    packed = bytearray(bgzf(data)[0])
    packed[len(packed) // 2 : len(packed) // 2 + 40] = bytes(40)
    found = read(tmp_path, bytes(packed), "b.fa.gz", window=30)
    assert "damaged" in reasons(found)
    good = set(texts(read(tmp_path, data, window=30)))
    assert set(texts(found)) <= good
    assert {one[0] for one in texts(found)} >= {"chr0", "chr7"}


def test_an_index_cuts_a_large_file_into_shards_of_whole_sequences(tmp_path: Path) -> None:
    data = sample(20)
    whole = read(tmp_path, data, window=64)
    (tmp_path / "a.fa.fai").write_text(fai_of(data))
    source = Fasta(name="dna", path=str(tmp_path / "a.fa"), window=64, shard_bytes=900)
    shards = source.plan()
    assert len(shards) > 3
    found = [row for shard in shards for row in source.read(shard)]
    assert found == whole  # ids included: they do not depend on how the file was cut


@pytest.mark.parametrize("shard_bytes", [900, 1 << 20])
@pytest.mark.parametrize(
    ("old", "new"), [("chr3", "chr9"), ("chr1\t", "chr1\t1"), (None, ""), ("chr2\t", "chr2 "), ("chr4", "chr3")]
)
def test_an_index_of_another_file_is_refused(tmp_path: Path, old: str | None, new: str, shard_bytes: int) -> None:
    data = sample(6)
    (tmp_path / "a.fa").write_bytes(data)
    right = fai_of(data)
    (tmp_path / "a.fa.fai").write_text(right.replace(old, new) if old else "\n".join(right.splitlines()[:-1]))
    with pytest.raises(SourceError, match="index"):
        rows(tmp_path / "a.fa", shard_bytes=shard_bytes)
    (tmp_path / "a.fa.fai").write_text(right)
    assert len(rows(tmp_path / "a.fa", shard_bytes=shard_bytes)) == 6


def test_options_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "a.fa").write_text(">a\nA\n")
    for options in ({"window": 0}, {"stride": 4}, {"window": 4, "stride": 0}, {"window": 100, "max_document_bytes": 10}):
        with pytest.raises(SourceError):
            rows(tmp_path / "a.fa", **options)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_random_access_gives_what_the_stream_gives(tmp_path: Path, packed: bool, end: bytes) -> None:
    data = sample(6).replace(b"\n", end)
    whole = {one[0]: one[3] for one in texts(read(tmp_path, data))}
    entries = read_fai(fai_of(data).encode(), "test")
    path, blocks = tmp_path / "a.fa", None
    if packed:
        path = tmp_path / "b.fa.gz"
        block_data, gzi = bgzf(data)
        path.write_bytes(block_data)
        blocks = read_gzi(gzi, "test")
    rng = random.Random(3)
    with open(path, "rb") as stream:
        index = IndexedFasta(stream, entries, "test", blocks)
        for entry in entries:
            for _ in range(20):
                start, stop = sorted(rng.choices(range(entry.length + 1), k=2))
                assert b"".join(index.pieces(entry, start, stop)).decode() == whole[entry.name][start:stop]  # type: ignore[arg-type]
        moved = entries[2]._replace(offset=entries[2].offset + 3)
        with pytest.raises(SourceError, match="does not lie"):
            list(index.pieces(moved, 0, 5))


def test_the_other_strand() -> None:
    assert reverse_complement(b"AACGTTNRYkmBdU") == b"AhVkmRYNAACGTT"
    assert find_other(b"ACGTUNRYSWKMBDHVacgtunryswkmbdhv") is None
    assert find_other(b"ACGX") == 3


@pytest.mark.data
def test_c_elegans_and_lambda_as_their_index_says(test_data: Path, tmp_path: Path) -> None:
    folder = test_data / "htslib_tests" / "test"
    found = rows(folder / "ce.fa", window=100_000)  # the real .fai lies beside it and is compared
    assert reasons(found) == []
    lengths: dict[str, int] = {}
    for name, start, end, _ in texts(found):
        assert start == lengths.get(name, 0)
        lengths[name] = end
    index = read_fai((folder / "ce.fa.fai").read_bytes(), "ce.fa.fai")
    assert lengths == {entry.name: entry.length for entry in index}
    expected = (folder / "faidx" / "ce.1.expected.fa").read_text().split(">")[1:]
    with open(folder / "ce.fa", "rb") as stream:
        indexed = IndexedFasta(stream, index, "ce.fa")
        for record in expected:  # what `samtools faidx` wrote for these regions
            title, _, body = record.partition("\n")
            name, _, region = title.split()[0].partition(":")
            first, _, last = region.partition("-")
            assert b"".join(indexed.pieces(indexed.entries[name], int(first) - 1, int(last))).decode() == body.replace("\n", "")  # type: ignore[arg-type]
    odd = (folder / "faidx" / "faidx.fa.expected.fai").read_bytes()  # no name, blanks before one, blank lines behind
    found = read(tmp_path, (folder / "faidx" / "faidx.fa").read_bytes())
    (tmp_path / "a.fa.fai").write_bytes(odd)
    assert rows(tmp_path / "a.fa") == found
    assert [(name, end) for name, _, end, _ in texts(found)] == [(one.name, one.length) for one in read_fai(odd, "")][1:]
    (phage,) = rows(test_data / "lambda_phage" / "example" / "reference" / "lambda_virus.fa")
    assert isinstance(phage, Document)
    assert len(phage.text) == 48_502
    assert phage.text.startswith("GGGCGGCGACCTCGCGGGTTTTCGCTATTTATGAAAATTTTCCGGTTTAAGGCGTTTCCGTTCTTCTTCG")


@pytest.mark.data
def test_biopython_reads_the_same(test_data: Path) -> None:
    seq_io = pytest.importorskip("Bio.SeqIO")
    folder = test_data / "htslib_tests" / "test"
    for path in sorted(folder.rglob("*.fa")):
        own = [(name, text) for name, _, _, text in texts(rows(path))]
        with open(path) as file:
            theirs = [(record.id, str(record.seq)) for record in seq_io.parse(file, "fasta")]
        assert own == [(name, text) for name, text in theirs if name and text and find_other(text.encode()) is None]


@pytest.mark.data
def test_pyfaidx_cuts_the_same(test_data: Path, tmp_path: Path) -> None:
    pyfaidx = pytest.importorskip("pyfaidx")
    data = (test_data / "htslib_tests" / "test" / "ce.fa").read_bytes()
    (tmp_path / "ce.fa").write_bytes(data)
    with pyfaidx.Fasta(str(tmp_path / "ce.fa")) as oracle:  # which writes an index of its own
        for name, start, end, text in texts(rows(tmp_path / "ce.fa", window=7_001, stride=5_000)):
            assert str(oracle[name][start:end]) == text


def test_a_remote_file_is_read_with_its_index(tmp_path: Path) -> None:
    fsspec = pytest.importorskip("fsspec")
    data = sample(20)
    whole = read(tmp_path, data, window=64)
    store = fsspec.filesystem("memory")
    store.pipe({"/dna/a.fa": data, "/dna/a.fa.fai": fai_of(data).encode()})
    try:
        source = Fasta(name="dna", path="memory://dna/a.fa", window=64, shard_bytes=900)
        shards = source.plan()
        assert len(shards) > 3
        assert [row for shard in shards for row in source.read(shard)] == whole
        assert len(Fasta(name="dna", path="memory://dna", window=64).plan()) == 1  # the index is no FASTA
    finally:
        store.rm("/dna", recursive=True)
