"""GenBank flat files as a stream of records: each whole, or what was wrong with it; after damage comes the next LOCUS.

A parser of our own: Biopython's ends the file at the first record that is damaged, and makes objects of all features, wanted
or not. It is the tests' oracle.
Source: NCBI, "GenBank Flat File Release", 3.4 (record structure).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from tilth.corpus.formats.compressed import Gap
from tilth.corpus.formats.content import Cut, Line, lines

MAX_LINE_BYTES = 1 << 20
MAX_FEATURES = 1_000_000
QUALIFIERS = ("gene", "locus_tag", "product", "protein_id", "codon_start", "transl_table", "note")
SOURCE_QUALIFIERS = ("organism", "mol_type", "chromosome", "plasmid", "segment", "organelle", "db_xref")
_LOCUS = re.compile(r"LOCUS\s+(\S.*?)\s+(\d{1,15})\s+(bp|aa|rc)(?:\s+(.*))?")
_DATE = re.compile(r"\d\d-[A-Z]{3}-\d{4}")
_NO_LETTERS = b"0123456789 \t\r"
_KEY_COLUMN, _VALUE_COLUMN = 5, 21


@dataclass
class Feature:
    """A row of the feature table; `qualifiers` are those of QUALIFIERS (of a source SOURCE_QUALIFIERS), the first of each."""

    kind: str
    location: str = ""
    qualifiers: dict[str, str] = field(default_factory=dict)


@dataclass
class GenBankRecord:
    """A record. `problem` is (reason, detail) for rejects/1 where it has no whole sequence of nucleotides."""

    offset: int  # of its first line in the unpacked content
    name: str = ""
    length: int = 0
    molecule: str = ""
    topology: str = ""
    division: str = ""
    date: str = ""
    fields: dict[str, str] = field(default_factory=dict)  # DEFINITION, ACCESSION, VERSION, ORGANISM
    features: list[Feature] = field(default_factory=list)
    n_features: Counter[str] = field(default_factory=Counter)
    sequence: bytearray = field(default_factory=bytearray)  # in capitals: small letters are the format's, not masking
    problem: tuple[str, str] | None = None

    @property
    def accession(self) -> str:
        """With its version where there is one, else without, else the name of the locus."""
        named = (self.fields.get(key, "").split() for key in ("VERSION", "ACCESSION"))
        return next((words[0] for words in named if words and words[0] != "."), self.name)


def genbank_records(
    parts: Iterable[bytes | Gap], kinds: frozenset[str], max_bytes: int
) -> Iterator[GenBankRecord | Cut]:  # fmt: skip
    """Every record, with the features of `kinds` (all are counted); those of more than `max_bytes` letters without them.

    A Cut outside a record, and one without a record, is given as it is.
    """
    reader: _Reader | None = None
    for line in lines(parts, MAX_LINE_BYTES):
        if isinstance(line, Cut):
            if reader is None:
                yield line
            else:
                reader.record.problem = (line.reason, line.detail)
                yield reader.record
            reader = None
            continue
        data = line.data or b""
        if data.startswith(b"LOCUS"):
            if reader is not None:
                yield reader.finish()
            reader = _Reader(line, kinds, max_bytes)
        elif reader is not None and data.startswith(b"//"):
            yield reader.finish()
            reader = None
        elif reader is not None:
            reader.take(line)
    if reader is not None:
        yield reader.finish()


class _Reader:
    """One record while its lines come."""

    def __init__(self, line: Line, kinds: frozenset[str], max_bytes: int) -> None:
        self.record, self._kinds, self._max_bytes = GenBankRecord(line.offset), kinds | {"source"}, max_bytes
        self._section = ""
        self._feature: Feature | None = None
        self._qualifier: tuple[str, list[str]] | None = None
        self._is_open = False  # within the quotation marks of a qualifier
        self._has_contig = False
        text = _text(line.data or b"")
        match = _LOCUS.fullmatch(text)
        if match is None:
            self.record.problem = ("invalid_locus", text[:120])
            return
        self.record.name, self.record.length = match[1], int(match[2])
        if match[3] != "bp":
            what = "amino acids" if match[3] == "aa" else "the names of other records"
            self.record.problem = ("not_nucleotides" if match[3] == "aa" else "no_sequence", f"{match[1]} holds {what}")
        for word in (match[4] or "").split():
            if "NA" in word:
                self.record.molecule = word
            elif word in ("linear", "circular"):
                self.record.topology = word
            elif _DATE.fullmatch(word):
                self.record.date = word
            elif re.fullmatch("[A-Z]{3}", word):
                self.record.division = word

    def take(self, line: Line) -> None:
        """A line of the record."""
        if line.data is None:
            self.record.problem = self.record.problem or ("too_large", f"a line of {line.size_bytes} bytes")
        elif self._section == "ORIGIN" and line.data[:1] in b" \t0123456789":
            self._add_letters(line.data)
        elif line.data.strip():
            self._take_text(_text(line.data))

    def _add_letters(self, data: bytes) -> None:
        if self.record.problem is None:
            self.record.sequence += data.translate(None, _NO_LETTERS).upper()
            if len(self.record.sequence) > self._max_bytes:
                self.record.problem = ("too_large", f"more than {self._max_bytes} letters")
                self.record.sequence = bytearray()

    def _take_text(self, text: str) -> None:
        if text[0] != " ":
            self._section = text.split(None, 1)[0]
            self._has_contig |= self._section in ("CONTIG", "WGS", "TSA", "TLS")
            self._field = self._section
            value = text[len(self._section) :].strip()
        elif self._section == "FEATURES":
            self._take_feature(text)
            return
        else:
            key = text[:12].strip()
            self._field = key or self._field
            value = text[12:].strip() if key or len(text) > 12 else text.strip()
            if self._section == "SOURCE" and not key and self._field == "ORGANISM":
                return  # the lineage
        if self._field in ("DEFINITION", "ACCESSION", "VERSION", "ORGANISM"):
            known = self.record.fields.get(self._field, "")
            self.record.fields[self._field] = f"{known} {value}".strip()

    def _take_feature(self, text: str) -> None:
        key, value = text[_KEY_COLUMN:_VALUE_COLUMN].strip(), text[_VALUE_COLUMN:].strip()
        if key and not text[:_KEY_COLUMN].strip() and not self._is_open:
            self._end_feature()
            self.record.n_features[key.split()[0]] += 1
            kind, _, location = text.strip().partition(" ")
            self._feature = Feature(kind, location.strip())
        elif value.startswith("/") and not self._is_open:
            self._end_qualifier()
            name, _, first = value[1:].partition("=")
            self._qualifier = (name, [first])
            self._is_open = first.startswith('"') and first.count('"') % 2 == 1
        elif self._qualifier is not None:
            self._qualifier[1].append(value)
            self._is_open ^= self._qualifier[1][0].startswith('"') and value.count('"') % 2 == 1
        elif self._feature is not None:
            self._feature.location += value

    def _end_qualifier(self) -> None:
        if self._qualifier is not None and self._feature is not None:
            name, parts = self._qualifier
            value = " ".join(parts).strip()
            if value.startswith('"'):
                value = value.strip('"').replace('""', '"')
            wanted = SOURCE_QUALIFIERS if self._feature.kind == "source" else QUALIFIERS
            if name in wanted and value:
                self._feature.qualifiers.setdefault(name, value)
        self._qualifier, self._is_open = None, False

    def _end_feature(self) -> None:
        self._end_qualifier()
        if self._feature is not None and self._feature.kind in self._kinds and len(self.record.features) < MAX_FEATURES:
            self.record.features.append(self._feature)
        self._feature = None

    def finish(self) -> GenBankRecord:
        """The record, complete. Without its end mark it is whole if its sequence is as long as LOCUS says."""
        self._end_feature()
        record = self.record
        if record.problem is None and len(record.sequence) != record.length:
            what = f"{record.name}: LOCUS says {record.length} letters, the sequence has {len(record.sequence)}"
            record.problem = ("wrong_length", what)
            if not record.sequence:
                what = "CONTIG or the like names other records" if self._has_contig else "nothing follows ORIGIN"
                record.problem = ("no_sequence", f"{record.name}: {what}")
        return record


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape").rstrip()
