"""GenBank flat files: records, windows, features cut out as their locations say, and what is damaged or no sequence."""

from __future__ import annotations

import gzip
import json
import random
import warnings
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilth.corpus.formats.feature_locations import LocationError, Span, parse_location
from tilth.corpus.records import Document, Reject
from tilth.corpus.sources.genbank import GenBank

RNG = random.Random(2)
LETTERS = "".join(RNG.choices("acgt", k=200))


def record(
    name: str = "AB1", letters: str = LETTERS, features: str = "", length: int | None = None, unit: str = "bp",
    topology: str = "linear", end: str = "//\n", origin: str = "ORIGIN\n",
) -> str:  # fmt: skip
    lines = [f"LOCUS       {name}   {len(letters) if length is None else length} {unit}    DNA     {topology} BCT 11-OCT-2001"]
    lines += ["DEFINITION  A record that is", "            made up.", f"ACCESSION   {name}", f"VERSION     {name}.2  GI:7"]
    lines += ["SOURCE      mouse", "  ORGANISM  Mus musculus", "            Eukaryota; Metazoa."]
    lines += ["FEATURES             Location/Qualifiers", "     source          1..200", '                     /organism="Mus"']
    text = "\n".join(lines) + "\n" + features + origin
    for at in range(0, len(letters), 60):
        row = letters[at : at + 60]
        text += f"{at + 1:>9} {' '.join(row[i : i + 10] for i in range(0, len(row), 10))}\n"
    return text + end


def feature(kind: str, location: str, **qualifiers: str) -> str:
    lines = [f"     {kind:<16}{location}"] + [f'                     /{name}="{value}"' for name, value in qualifiers.items()]
    return "\n".join(lines) + "\n"


def read(tmp_path: Path, text: str | bytes, name: str = "a.gb", **options: Any) -> list[Document | Reject]:
    (tmp_path / name).write_bytes(text.encode() if isinstance(text, str) else text)
    return rows(tmp_path / name, **options)


def rows(path: Path, **options: Any) -> list[Document | Reject]:
    source = GenBank(name="gb", path=str(path), **options)
    return [row for shard in source.plan() for row in source.read(shard)]


def reasons(found: list[Document | Reject]) -> list[str]:
    return [row.reason for row in found if isinstance(row, Reject)]


def texts(found: list[Document | Reject]) -> list[str]:
    return [row.text for row in found if isinstance(row, Document)]


def test_a_record_is_a_document_with_what_it_says(tmp_path: Path) -> None:
    (row,) = read(tmp_path, record(features=feature("CDS", "1..30", gene="x")))
    assert isinstance(row, Document)
    assert row.text == LETTERS.upper()
    counts = row.meta.pop("feature_counts")
    assert json.loads(counts) == {"CDS": 1, "source": 1}
    assert row.meta == {
        "sequence": "AB1.2", "start": "0", "end": "200", "strand": "+", "file": "a.gb", "locus": "AB1", "organism": "Mus musculus",
        "description": "A record that is made up.", "molecule": "DNA", "topology": "linear", "division": "BCT",
        "date": "11-OCT-2001", "n_features": "2",
    }  # fmt: skip


@pytest.mark.parametrize("change", [lambda text: text.replace("\n", "\r\n"), lambda text: "Preamble\n\n" + text, gzip.compress])
def test_line_ends_preambles_and_packing(tmp_path: Path, change: Any) -> None:
    text = record() + record("AB2", LETTERS[:70])
    data = change(text.encode()) if change is gzip.compress else change(text).encode()
    assert texts(read(tmp_path, data, "a.gb.gz" if change is gzip.compress else "a.gb")) == [
        LETTERS.upper(),
        LETTERS[:70].upper(),
    ]


def test_windows(tmp_path: Path) -> None:
    found = [row for row in read(tmp_path, record(), window=90, stride=60) if isinstance(row, Document)]
    assert [(row.meta["start"], row.meta["end"]) for row in found] == [("0", "90"), ("60", "150"), ("120", "200")]
    assert found[1].text == LETTERS[60:150].upper()
    assert reasons(read(tmp_path, record(), max_document_bytes=100)) == ["too_large"]
    assert reasons(read(tmp_path, record(), max_record_bytes=100)) == ["too_large"]


def test_features_are_cut_out_as_their_locations_say(tmp_path: Path) -> None:
    own = (
        feature("gene", "1..50", gene="a")
        + feature("CDS", "join(1..10,\n                     21..30)", gene="a", product="it /is \"\"one\"\"\n                     thing")
        + feature("CDS", "complement(join(41..50,<61..70))", gene="b")
        + feature("CDS", "join(AB9.1:1..10,3..5)")
        + feature("CDS", "190..205")
    )  # fmt: skip
    found = read(tmp_path, record(features=own), features="CDS")
    first, second = (row for row in found if isinstance(row, Document))
    upper = LETTERS.upper()
    assert first.text == upper[:10] + upper[20:30]
    assert (first.meta["gene"], first.meta["product"], first.meta["feature"]) == ("a", 'it /is "one" thing', "CDS")
    assert first.meta["location"] == "join(1..10,21..30)"
    pairs = dict(zip("ACGT", "TGCA", strict=True))
    assert second.text == "".join(pairs[letter] for letter in reversed(upper[40:50] + upper[60:70]))
    assert [second.meta[name] for name in ("start", "end", "strand", "partial")] == ["40", "70", "-", "true"]
    assert reasons(found) == ["remote_location", "out_of_range"]
    both = read(tmp_path, record(features=own), features=("gene", "CDS"))
    assert texts(both)[0] == upper[:50]


def test_what_is_no_whole_sequence_is_a_reject_and_the_next_is_read(tmp_path: Path) -> None:
    good = record("OK", LETTERS[:30])
    cases = {
        "wrong_length": record(length=201) + good,
        "no_sequence": record(letters="", length=200, origin="CONTIG      join(X:1..9)\n") + good,
        "not_nucleotides": record(unit="aa", letters="mkvl") + good,
        "invalid_locus": record().replace("LOCUS       AB1   200 bp", "LOCUS       AB1   many bp") + good,
        "invalid_character": record(letters="acgtxacgt") + good,
    }
    for reason, text in cases.items():
        found = read(tmp_path, text)
        assert reasons(found) == [reason], reason
        assert texts(found) == [LETTERS[:30].upper()]


def test_a_record_without_its_end_is_whole_if_its_length_is_right(tmp_path: Path) -> None:
    assert texts(read(tmp_path, record(end=""))) == [LETTERS.upper()]
    cut = record()[:-100]
    assert reasons(read(tmp_path, cut)) == ["wrong_length"]
    assert reasons(read(tmp_path, "no record\n")) == ["no_record"]
    assert reasons(read(tmp_path, b"")) == ["no_record"]


def test_a_truncated_file_keeps_the_records_before(tmp_path: Path) -> None:
    whole = "".join(record(f"R{i}", "".join(random.Random(i).choices("acgt", k=2000))) for i in range(20))
    packed = gzip.compress(whole.encode())
    found = read(tmp_path, packed[: len(packed) // 2], "a.gb.gz")
    assert reasons(found) == ["truncated"]
    assert 3 < len(texts(found)) < 15


SPANS = st.lists(st.tuples(st.integers(1, 90), st.integers(0, 10), st.booleans()), min_size=1, max_size=4)


@settings(max_examples=200)
@given(spans=SPANS, whole=st.booleans())
def test_locations_read_as_they_are_written(spans: list[tuple[int, int, bool]], whole: bool) -> None:
    sequence = "".join(random.Random(1).choices("ACGT", k=100)).encode()
    pairs = dict(zip("ACGT", "TGCA", strict=True))

    def other(text: str) -> str:
        return "".join(pairs[letter] for letter in reversed(text))

    parts, expected = [], ""
    for first, more, turned in spans:
        text = f"{first}..{first + more}" if more else str(first)
        letters = sequence[first - 1 : first + more].decode()
        parts.append(f"complement({text})" if turned else text)
        expected += other(letters) if turned else letters
    location = f"join({','.join(parts)})" if len(parts) > 1 else parts[0]
    if whole:
        location, expected = f"complement({location})", other(expected)
    assert parse_location(location, 100).cut(sequence).decode() == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "unknown_location"), ("1..x", "unknown_location"), ("10^11", "unknown_location"), ("(1.5)..9", "unknown_location"),
        ("one-of(1,5)..9", "unknown_location"), ("9..5", "unknown_location"), ("0..5", "out_of_range"), ("5..101", "out_of_range"),
        ("J1.1:1..5", "remote_location"), ("join(1..5,6..7", "unknown_location"), ("join(1..5),6..7)", "unknown_location"),
        ("complement(" * 30 + "1" + ")" * 30, "too_deep"), ("bond(1,5)", "unknown_location"), ("join()", "unknown_location"),
    ],
)  # fmt: skip
def test_locations_without_letters_are_refused(text: str, reason: str) -> None:
    with pytest.raises(LocationError) as error:
        parse_location(text, 100)
    assert error.value.reason == reason


def test_a_circular_sequence_may_be_run_over_its_end() -> None:
    assert parse_location("95..5", 100, is_circular=True).spans == (Span(94, 100, "+"), Span(0, 5, "+"))
    assert parse_location("complement(95..5)", 100, is_circular=True).spans == (Span(0, 5, "-"), Span(94, 100, "-"))


@pytest.mark.data
def test_coding_sequences_are_those_that_ncbi_published(test_data: Path) -> None:
    folder = test_data / "biopython_seq" / "Tests" / "GenBank"
    found = rows(folder / "NC_005816.gb", features="CDS")
    assert reasons(found) == []
    published = ["".join(part.split("\n")[1:]) for part in (folder / "NC_005816.ffn").read_text().split(">")[1:]]
    assert sorted(texts(found)) == sorted(published)
    (whole,) = rows(folder / "NC_005816.gb")
    assert isinstance(whole, Document)
    assert whole.text == "".join((folder / "NC_005816.fna").read_text().split("\n")[1:])
    assert (whole.meta["plasmid"], whole.meta["topology"]) == ("pPCP1", "circular")


@pytest.mark.data
def test_biopython_reads_the_same(test_data: Path) -> None:
    seq_io = pytest.importorskip("Bio.SeqIO")
    n_records = n_features = 0
    for path in sorted((test_data / "biopython_seq" / "Tests" / "GenBank").glob("*.gb*")):
        if path.suffix not in (".gb", ".gbk"):
            continue
        own = {row.meta["sequence"]: row for row in rows(path) if isinstance(row, Document)}
        cut = [row.text for row in rows(path, features="CDS") if isinstance(row, Document)]
        with warnings.catch_warnings(), open(path) as file:
            warnings.simplefilter("ignore")
            try:
                theirs = [one for one in seq_io.parse(file, "genbank") if one.annotations["molecule_type"] != "protein"]
                theirs = [one for one in theirs if one.seq.defined]
            except ValueError:  # it ends the file at what is damaged
                continue
            features = [
                str(feature.extract(one.seq)).upper()
                for one in theirs
                for feature in one.features
                if feature.type == "CDS" and feature.location and all(part.ref is None for part in feature.location.parts)
            ]
        assert [row.text for row in own.values()] == [str(one.seq).upper() for one in theirs], path.name
        assert [row.meta.get("organism") for row in own.values()] == [
            name if name != "." else None for name in (one.annotations.get("organism", ".") or "." for one in theirs)
        ], path.name
        n_records, n_features = n_records + len(theirs), n_features + len(features)
        assert cut == features, path.name
    assert n_records > 30
    assert n_features > 150
