"""Changed bytes anywhere in FASTA, GenBank, BED and tables, plain and packed: no exception, and texts are nucleotides alone."""

from __future__ import annotations

import gzip
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tilth.corpus.formats.nucleotides import find_other
from tilth.corpus.records import Document, Reject
from tilth.corpus.sources.bed import Bed
from tilth.corpus.sources.fasta import Fasta
from tilth.corpus.sources.genbank import GenBank
from tilth.corpus.sources.sequence_tables import SequenceTables
from tilth.errors import SourceError

SEEDS = range(int(os.environ.get("TILTH_MUTATIONS", "40")))
KINDS = ("flip", "set", "cut", "insert", "drop", "zero", "line", "repeat")
LETTERS = "".join(random.Random(3).choices("ACGTacgtNR", k=900))


def fasta() -> str:
    return "".join(f">s{i} about\n{LETTERS[i * 90 : i * 90 + 150]}\n{LETTERS[:60]}\n" for i in range(8))


def genbank() -> str:
    origin = "".join(f"{at + 1:>9} {LETTERS[at : at + 60].lower()}\n" for at in range(0, 300, 60))
    return "".join(
        f"LOCUS       R{i}   300 bp    DNA     circular BCT 11-OCT-2001\nDEFINITION  x\nVERSION     R{i}.1\n"
        "FEATURES             Location/Qualifiers\n     CDS             complement(join(1..30,<40..50))\n"
        f'                     /gene="a b"\n     CDS             290..10\nORIGIN\n{origin}//\n'
        for i in range(5)
    )


def bed() -> str:
    return "".join(f"s{i % 8}\t{i * 3}\t{i * 3 + 20}\tn{i}\t0\t{'+-.'[i % 3]}\n" for i in range(40))


def table() -> str:
    return "sequence,label\n" + "".join(f"{LETTERS[i * 9 : i * 9 + 40]},{i % 2}\n" for i in range(40))


FORMS: dict[str, tuple[Callable[[], str], Callable[[Path, Path], Any]]] = {
    "a.fa": (fasta, lambda path, _: Fasta(name="x", path=str(path), window=64)),
    "a.gb": (genbank, lambda path, _: GenBank(name="x", path=str(path), window=100)),
    "b.gb": (genbank, lambda path, _: GenBank(name="x", path=str(path), features="CDS")),
    "a.bed": (bed, lambda path, reference: Bed(name="x", path=str(path), fasta=str(reference))),
    "a.csv": (table, lambda path, _: SequenceTables(name="x", path=str(path))),
}


def mutated(data: bytes, chance: random.Random) -> bytes:
    at, n = chance.randrange(len(data)), chance.choice([1, 3, 40, 400])
    match chance.choice(KINDS):
        case "flip":
            return data[:at] + bytes([data[at] ^ 1 << chance.randrange(8)]) + data[at + 1 :]
        case "set":
            return data[:at] + chance.randbytes(n) + data[at + n :]
        case "cut":
            return data[:at]
        case "insert":
            return data[:at] + chance.randbytes(n) + data[at:]
        case "drop":
            return data[:at] + data[at + n :]
        case "zero":
            return data[:at] + bytes(n) + data[at + n :]
        case "line":
            return (
                data[:at]
                + chance.choice([b"\n>", b"\r\n", b"\n//\n", b"LOCUS", b"\n\n", b'"', b"(", b"\t", b"\xef\xbb\xbf"])
                + data[at:]
            )
    return data[: at + n] + data[at:]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_no_change_of_bytes_is_an_exception(form: str, packed: bool, tmp_path: Path) -> None:
    make, source_of = FORMS[form]
    (tmp_path / "reference.fa").write_text(fasta())
    path, whole = tmp_path / (form + (".gz" if packed else "")), make().encode()
    n_documents = 0
    for seed in SEEDS:
        chance = random.Random(f"{form} {packed} {seed}")
        path.write_bytes(mutated(gzip.compress(whole) if packed else whole, chance))
        source = source_of(path, tmp_path / "reference.fa")
        try:
            found = [row for shard in source.plan() for row in source.read(shard)]
        except SourceError:
            if form != "a.csv":  # where a damaged header names no column `sequence`
                raise
            continue
        for row in found:
            assert isinstance(row, Document | Reject)
            if isinstance(row, Document):
                assert row.text
                assert find_other(row.text.encode()) is None
                n_documents += 1
    assert n_documents > len(SEEDS) // 8


def test_a_changed_reference_is_no_exception(tmp_path: Path) -> None:
    (tmp_path / "a.bed").write_text(bed())
    for seed in SEEDS:
        chance = random.Random(f"reference {seed}")
        packed = seed % 2 == 1
        data = fasta().encode()
        reference = tmp_path / ("r.fa.gz" if packed else "r.fa")
        reference.write_bytes(mutated(gzip.compress(data) if packed else data, chance))
        source = Bed(name="x", path=str(tmp_path / "a.bed"), fasta=str(reference))
        try:
            found = [row for shard in source.plan() for row in source.read(shard)]
        except SourceError as error:
            if "twice" not in str(error):
                raise
            continue
        rejects = [row for row in found if isinstance(row, Reject) and not row.location.startswith("r.fa")]
        assert len(rejects) + sum(isinstance(row, Document) for row in found) == 40
