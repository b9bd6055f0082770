"""Intervals over a FASTA: BED and tables, strands, labels, what is out of range; the same with an index and without."""

from __future__ import annotations

import gzip
import random
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest

from tilth.corpus.formats.nucleotides import reverse_complement
from tilth.corpus.records import Document, Reject
from tilth.corpus.sources.bed import Bed
from tilth.errors import SourceError

RNG = random.Random(4)
SEQUENCES = {f"chr{i}": "".join(RNG.choices("ACGTacgtN", k=n)) for i, n in enumerate((500, 90, 1_000, 61))}


def fasta(width: int = 60) -> tuple[bytes, str]:
    """A FASTA and its index."""
    data, index = "", ""
    for name, text in SEQUENCES.items():
        data += f">{name} a description\n"
        index += f"{name}\t{len(text)}\t{len(data)}\t{width}\t{width + 1}\n"
        data += "".join(f"{text[at : at + width]}\n" for at in range(0, len(text), width))
    return data.encode(), index


def bgzf(data: bytes, block: int = 150) -> tuple[bytes, bytes]:
    packed, blocks = b"", []
    for start in range(0, len(data), block):
        blocks.append((len(packed), start))
        part = data[start : start + block]
        deflate = zlib.compressobj(6, zlib.DEFLATED, -15)
        body = deflate.compress(part) + deflate.flush()
        packed += struct.pack("<4BI2BH2BHH", 31, 139, 8, 4, 0, 0, 255, 6, 66, 67, 2, len(body) + 25)
        packed += body + struct.pack("<II", zlib.crc32(part), len(part))
    return packed, struct.pack("<Q", len(blocks) - 1) + b"".join(struct.pack("<QQ", *pair) for pair in blocks[1:])


def rows(path: Path, fasta: Path, **options: Any) -> list[Document | Reject]:
    source = Bed(name="sites", path=str(path), fasta=str(fasta), **options)
    return [row for shard in source.plan() for row in source.read(shard)]


def read(tmp_path: Path, text: str, name: str = "a.bed", **options: Any) -> list[Document | Reject]:
    (tmp_path / "ref.fa").write_bytes(fasta()[0])
    (tmp_path / name).write_text(text)
    return rows(tmp_path / name, tmp_path / "ref.fa", **options)


def expected(name: str, start: int, end: int, strand: str) -> str:
    text = SEQUENCES[name][start:end]
    return reverse_complement(text.encode()).decode() if strand == "-" else text


def random_bed(n: int = 60) -> str:
    rng = random.Random(9)
    lines = []
    for i in range(n):
        name = rng.choice([*SEQUENCES])
        start, end = sorted(rng.sample(range(len(SEQUENCES[name]) + 1), 2))
        lines.append(f"{name}\t{start}\t{end}\tn{i}\t{i}\t{rng.choice('+-.')}\n")
    return "".join(lines)


def test_an_interval_is_a_document_with_its_columns(tmp_path: Path) -> None:
    text = "track name=x\n#c\nbrowser y\n\nchr1\t10\t30\tsite1\t7\t-\r\nchr0 0 5\n"
    second, first = sorted(
        (row for row in read(tmp_path, text, assembly="t1", label="promoter") if isinstance(row, Document)),
        key=lambda row: row.meta["sequence"],
    )
    assert first.text == expected("chr1", 10, 30, "-")
    assert first.meta == {
        "sequence": "chr1", "start": "10", "end": "30", "strand": "-", "name": "site1", "score": "7", "file": "a.bed",
        "assembly": "t1", "label": "promoter",
    }  # fmt: skip
    assert first.extraction == "reverse complement"
    assert (second.text, second.meta["strand"]) == (SEQUENCES["chr0"][:5], ".")


@pytest.mark.parametrize("form", ["plain", "indexed", "gzip", "bgzf", "bgzf indexed"])
def test_every_form_of_the_fasta_gives_the_same(tmp_path: Path, form: str) -> None:
    data, index = fasta()
    path = tmp_path / ("ref.fa" if form in ("plain", "indexed") else "ref.fa.gz")
    packed, gzi = bgzf(data)
    path.write_bytes(data if form in ("plain", "indexed") else gzip.compress(data) if form == "gzip" else packed)
    if "indexed" in form:
        Path(f"{path}.fai").write_text(index)
        Path(f"{path}.gzi").write_bytes(gzi)
    (tmp_path / "a.bed.gz").write_bytes(gzip.compress(random_bed().encode()))
    found = rows(tmp_path / "a.bed.gz", path)
    assert len(found) == 60
    for row in found:
        assert isinstance(row, Document)
        place = row.meta["sequence"], int(row.meta["start"]), int(row.meta["end"]), row.meta["strand"]
        assert row.text == expected(*place)
    order = [(row.meta["sequence"], int(row.meta["start"])) for row in found if isinstance(row, Document)]
    assert order == sorted(order)


def test_rows_that_are_no_interval_of_the_fasta(tmp_path: Path) -> None:
    text = (
        "chr0\t490\t501\nchr0\t600\t700\nchr0\t5\nchr0\t9\t5\nchr0\t-1\t5\nchr0\tx\t5\nchr0\t1\t"
        + "9" * 5000
        + "\nchr1\t5\t5\n1\t0\t5\nchr2\t0\t400\n"
    )
    found = read(tmp_path, text, max_document_bytes=300)
    by_line = {row.location: row for row in found if isinstance(row, Reject)}
    assert {place.removeprefix("a.bed:"): row.reason for place, row in by_line.items()} == {
        "1": "out_of_range", "2": "out_of_range", "3": "invalid_bed", "4": "invalid_bed", "5": "invalid_bed",
        "6": "invalid_bed", "7": "invalid_bed", "8": "empty", "9": "unknown_sequence", "10": "too_large",
    }  # fmt: skip
    assert "500 letters" in by_line["a.bed:1"].detail
    assert "chr1" in by_line["a.bed:9"].detail


def test_a_wrong_index_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ref.fa.fai").write_text(fasta()[1].replace("chr1\t90\t", "chr1\t95\t"))
    with pytest.raises(SourceError, match="index"):
        read(tmp_path, "chr1\t0\t5\n")


def test_two_sequences_of_one_name_are_refused_when_asked_for(tmp_path: Path) -> None:
    (tmp_path / "ref.fa").write_text(">a\nACGT\n>b\nAC\n>a\nTTTT\n")
    (tmp_path / "x.bed").write_text("b\t0\t2\n")
    assert len(rows(tmp_path / "x.bed", tmp_path / "ref.fa")) == 1
    (tmp_path / "x.bed").write_text("a\t0\t2\n")
    with pytest.raises(SourceError, match="twice"):
        rows(tmp_path / "x.bed", tmp_path / "ref.fa")


def test_a_truncated_fasta_is_told(tmp_path: Path) -> None:
    packed = gzip.compress(fasta()[0])
    (tmp_path / "ref.fa.gz").write_bytes(packed[: len(packed) // 2])
    (tmp_path / "x.bed").write_text("chr0\t0\t10\nchr3\t0\t10\n")
    found = rows(tmp_path / "x.bed", tmp_path / "ref.fa.gz")
    assert [row.reason if isinstance(row, Reject) else row.text for row in found] == [
        SEQUENCES["chr0"][:10], "truncated", "unknown_sequence",
    ]  # fmt: skip


def test_a_changed_fasta_changes_the_shard_and_is_refused_after_planning(tmp_path: Path) -> None:
    read(tmp_path, "chr0\t0\t10\n")
    source = Bed(name="sites", path=str(tmp_path / "a.bed"), fasta=str(tmp_path / "ref.fa"))
    (before,) = source.plan()
    (tmp_path / "ref.fa").write_bytes(fasta()[0].replace(b"A", b"C"))
    (after,) = source.plan()
    assert before.params != after.params
    with pytest.raises(SourceError, match="changed"):
        list(source.read(before))


def test_a_table_with_a_header_names_its_columns(tmp_path: Path) -> None:
    text = "id,region,start,end,strand,label\n7,chr2,5,25,-,1\n8,chr2,0,9,+,0\n9,chr2,0\n"
    found = read(tmp_path, text, name="train.csv")
    documents = [row for row in found if isinstance(row, Document)]
    assert [(row.text, row.meta["label"], row.meta["id"]) for row in documents] == [
        (expected("chr2", 0, 9, "+"), "0", "8"), (expected("chr2", 5, 25, "-"), "1", "7"),
    ]  # fmt: skip
    assert [row.reason for row in found if isinstance(row, Reject)] == ["wrong_width"]
    assert [row.reason for row in read(tmp_path, "a,b\n1,2\n", "b.csv") if isinstance(row, Reject)] == ["invalid_table"]


@pytest.mark.data
def test_genomic_benchmarks_are_read(test_data: Path, tmp_path: Path) -> None:
    """Their intervals are of hg38, which is not here: every row must be found to be so, and nothing else."""
    folder = test_data / "genomic_benchmarks_iv" / "datasets" / "human_nontata_promoters" / "test"
    (tmp_path / "ref.fa").write_text(">chr13\n" + "ACGT" * 50 + "\n")
    found = rows(folder, tmp_path / "ref.fa")
    assert {row.reason for row in found if isinstance(row, Reject)} == {"unknown_sequence", "out_of_range"}
    assert len(found) == sum(len(gzip.decompress(path.read_bytes()).splitlines()) - 1 for path in folder.glob("*.csv.gz"))


@pytest.mark.data
def test_c_elegans_with_its_index_and_without(test_data: Path, tmp_path: Path) -> None:
    folder = test_data / "htslib_tests" / "test"
    rng = random.Random(2)
    starts = sorted(rng.sample(range(1_000_000), 50))
    (tmp_path / "a.bed").write_text("".join(f"CHROMOSOME_I\t{start}\t{start + 500}\ts\t0\t-\n" for start in starts))
    (tmp_path / "ce.fa").write_bytes((folder / "ce.fa").read_bytes())
    texts = [
        [row.text for row in rows(tmp_path / "a.bed", path) if isinstance(row, Document)]
        for path in (folder / "ce.fa", tmp_path / "ce.fa")
    ]
    assert len(texts[0]) == 50
    assert texts[0] == texts[1]
