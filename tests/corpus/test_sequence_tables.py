"""Labelled sequences in tables: GUE's CSV, DNABERT's k-mers, UCI's splice junctions in both of their forms."""

from __future__ import annotations

import gzip
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilth.corpus.records import Document, Reject
from tilth.corpus.sources.sequence_tables import SequenceTables, _joined
from tilth.errors import SourceError


def rows(path: Path, **options: Any) -> list[Document | Reject]:
    source = SequenceTables(name="labelled", path=str(path), **options)
    return [row for shard in source.plan() for row in source.read(shard)]


def read(tmp_path: Path, text: str, name: str = "train.csv", **options: Any) -> list[Document | Reject]:
    (tmp_path / name).write_text(text)
    return rows(tmp_path / name, **options)


def seen(found: list[Document | Reject]) -> list[tuple[str, str]]:
    return [(row.text, row.meta["label"]) if isinstance(row, Document) else (row.reason, row.location) for row in found]


def test_a_row_is_a_document_with_its_label(tmp_path: Path) -> None:
    found = read(tmp_path, "sequence,label,id\nACGT,1,a\nacgn,0,\nAXGT,1,b\nACGT,,c\nACGT,1\n,1,d\n")
    assert seen(found) == [
        ("ACGT", "1"), ("acgn", "0"), ("invalid_character", "train.csv:4"), ("no_label", "train.csv:5"),
        ("wrong_width", "train.csv:6"), ("empty", "train.csv:7"),
    ]  # fmt: skip
    first = found[0]
    assert isinstance(first, Document)
    assert first.meta == {"label": "1", "id": "a", "file": "train.csv"}
    assert read(tmp_path, "sequence\nACGT\n", label=None)[0].meta == {"file": "train.csv"}  # type: ignore[union-attr]


def test_uci_splice_data_as_it_is_distributed(tmp_path: Path) -> None:
    text = "EI,    ATRINS-DONOR-521,               CCAGCTGCAT\nN,X,   ACGTDNACGS\n"
    found = read(tmp_path, text, "splice.data", header=("label", "name", "sequence"))
    assert seen(found) == [("CCAGCTGCAT", "EI"), ("ACGTDNACGS", "N")]


@given(st.text(alphabet="ACGTN", min_size=6, max_size=60), st.integers(1, 6))
def test_kmers_are_put_together_again(text: str, k: int) -> None:
    assert _joined(" ".join(text[i : i + k] for i in range(len(text) - k + 1)), k) == text


def test_words_that_are_no_overlapping_kmers(tmp_path: Path) -> None:
    text = "sequence\tlabel\nACG CGT GTT\t1\nACG GGT\t1\nACG CG\t0\n"
    assert seen(read(tmp_path, text, "dev.tsv", kmer=3)) == [
        ("ACGTT", "1"), ("invalid_kmers", "dev.tsv:3"), ("invalid_kmers", "dev.tsv:4"),
    ]  # fmt: skip


def test_a_column_that_is_not_there(tmp_path: Path) -> None:
    for options in ({"sequence": "seq"}, {"label": "class"}, {"kmer": 0}):
        with pytest.raises(SourceError):
            read(tmp_path, "sequence,label\nACGT,1\n", **options)


def test_arff(tmp_path: Path) -> None:
    text = "% about\n@relation x\n@attribute 'my id' string\n@ATTRIBUTE p1 {A,C}\n@attribute p2 {A,C}\n@attribute Class {x}\n@data\n% c\n'a,b',A,C,x\n\nb,N,G,x\n"
    found = read(tmp_path, text, "a.arff", sequence="p*", label="Class")
    assert seen(found) == [("AC", "x"), ("NG", "x")]
    assert found[0].meta["my id"] == "a,b"  # type: ignore[union-attr]
    assert found[0].occurrences[0].record_id == "9"  # type: ignore[union-attr]


def test_truncated(tmp_path: Path) -> None:
    rng = random.Random(1)
    text = "sequence,label\n" + "".join(f"{''.join(rng.choices('ACGT', k=100))},{i % 2}\n" for i in range(2000))
    packed = gzip.compress(text.encode())
    (tmp_path / "a.csv.gz").write_bytes(packed[: len(packed) // 2])
    found = rows(tmp_path / "a.csv.gz")
    assert [row.reason for row in found if isinstance(row, Reject)] == ["truncated"]
    assert 800 < len(found) < 1200


@pytest.mark.data
def test_the_splice_junctions(test_data: Path) -> None:
    found = rows(test_data / "uci_splice" / "classification" / "splice.arff", sequence="attribute_*", label="Class")
    documents = [row for row in found if isinstance(row, Document)]
    assert len(documents) == len(found) == 3190
    assert Counter(row.meta["label"] for row in documents) == {"EI": 767, "IE": 768, "N": 1655}
    assert {len(row.text) for row in documents} == {60}
    assert documents[0].text == "CCAGCTGCATCACAGGAGGCCAGCGAGCAGGTCTGTTCCAAGGGCCTTCGAGCCAGTCTG"
    # A donor site is GT behind the exon's end, an acceptor AG before its beginning, both in the middle of the 60.
    for label, at, pair in (("EI", 30, "GT"), ("IE", 28, "AG")):
        share = sum(row.text[at : at + 2] == pair for row in documents if row.meta["label"] == label)
        assert share / 767 > 0.97


@pytest.mark.data
def test_the_promoters_of_dnabert(test_data: Path) -> None:
    folder = test_data / "dnabert_promcore" / "examples" / "sample_data" / "ft" / "6"
    found = rows(folder / "dev.tsv", kmer=6)
    documents = [row for row in found if isinstance(row, Document)]
    assert len(documents) == len(found) == 1000
    assert Counter(row.meta["label"] for row in documents).keys() == {"0", "1"}
    line = (folder / "dev.tsv").read_text().splitlines()[1].split("\t")[0].split()
    assert documents[0].text[:20] == "".join(word[0] for word in line[:20])
