"""GenBank flat files, packed or not: a record, each window of one, or each feature of a kind is a document."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from tilth.corpus.file_source import FileSource
from tilth.corpus.formats.content import Cut, unpacked
from tilth.corpus.formats.feature_locations import LocationError, parse_location
from tilth.corpus.formats.genbank import SOURCE_QUALIFIERS, Feature, GenBankRecord, genbank_records
from tilth.corpus.locations import FoundFile, open_raw
from tilth.corpus.records import Document, Reject, Shard, printable
from tilth.corpus.registry import source
from tilth.corpus.sequence_rows import AS_WRITTEN, OTHER_STRAND, SequenceRows
from tilth.corpus.sources.fasta import MAX_DOCUMENT_BYTES, check_windows

NAMES = (".gb", ".gbk", ".gbff", ".genbank", ".seq")
SUFFIXES = tuple(f"{name}{packed}" for name in NAMES for packed in ("", ".gz", ".bgz", ".zst", ".xz", ".bz2"))
EXTRACTION = "in capitals"  # GenBank writes small letters, which say nothing


@source
@dataclass(frozen=True, kw_only=True)
class GenBank(FileSource):
    """`path` is a file, folder, pattern or URL of flat files; `window` and `stride` are as in Fasta.

    With `features` (a kind, `"CDS"`, or several) each feature of these kinds is a document instead, joined and turned to the
    other strand as its location says. Texts are in capitals. meta: sequence (the accession with its version), start, end,
    strand, file, description, organism, molecule, topology, division, date, what the `source` feature says, n_features and
    feature_counts (JSON); of a feature also feature, location, gene, product and the like. A record without a
    sequence of its own (CONTIG), of amino acids, or of another length than it says is a reject.
    """

    window: int | None = None
    stride: int | None = None
    features: str | tuple[str, ...] = ()
    assembly: str | None = None
    max_document_bytes: int = MAX_DOCUMENT_BYTES
    max_record_bytes: int = 512 << 20

    version: ClassVar[int] = 1
    suffixes: ClassVar[tuple[str, ...]] = SUFFIXES

    @property
    def _kinds(self) -> tuple[str, ...]:
        return (self.features,) if isinstance(self.features, str) else tuple(self.features)

    def params(self) -> dict[str, Any]:
        """Raises SourceError for a window or a stride that cannot be."""
        check_windows(self.window, self.stride, self.max_document_bytes, self.where)
        return {
            "window": self.window, "stride": self.stride, "features": list(self._kinds), "assembly": self.assembly,
            "max_document_bytes": self.max_document_bytes, "max_record_bytes": self.max_record_bytes,
        }  # fmt: skip

    def rows(self, unit: list[FoundFile], shard: Shard) -> Iterator[Document | Reject]:
        """The documents of a file, and a reject for every record or feature that gives none."""
        (file,) = unit
        fixed = {"assembly": self.assembly} if self.assembly else {}
        maker = SequenceRows(self.name, "genbank", file.name, shard.params["licence"], fixed)
        n_records = 0
        with open_raw(file.location, self.where) as raw:
            for record in genbank_records(unpacked(raw), frozenset(self._kinds), self.max_record_bytes):
                n_records += 1
                location = f"{printable(file.name)}@{record.offset}"
                if isinstance(record, Cut):
                    yield Reject(location, record.reason, record.detail)
                elif record.problem is not None:
                    yield Reject(location, record.problem[0], printable(record.problem[1]))
                elif self._kinds:
                    yield from self._cut_out(record, location, maker)
                else:
                    yield from self._windows(record, location, maker)
        if not n_records:
            yield Reject(printable(file.name), "no_record", "no line begins with LOCUS")

    def _windows(self, record: GenBankRecord, location: str, maker: SequenceRows) -> Iterator[Document | Reject]:
        length = len(record.sequence)
        if self.window is None and length > self.max_document_bytes:
            what = f"{record.accession} has {length} letters, at most {self.max_document_bytes}; give a `window`"
            yield Reject(location, "too_large", printable(what))
            return
        window, start, meta = self.window or length, 0, _meta(record)
        while True:
            end = min(start + window, length)
            yield maker.row(
                bytes(record.sequence[start:end]), location, record.accession, start, end, "+", meta, extraction=EXTRACTION
            )
            start += self.stride or window
            if end == length or start >= length:
                return

    def _cut_out(self, record: GenBankRecord, location: str, maker: SequenceRows) -> Iterator[Document | Reject]:
        meta, sequence = _meta(record), bytes(record.sequence)
        for number, feature in enumerate(one for one in record.features if one.kind in self._kinds):
            try:
                place = parse_location(feature.location, len(sequence), record.topology == "circular")
            except LocationError as error:
                yield Reject(location, error.reason, printable(f"{feature.kind} of {record.accession}: {error.detail}"))
                continue
            n_letters = sum(span.end - span.start for span in place.spans)
            if n_letters > self.max_document_bytes:
                yield Reject(location, "too_large", f"{feature.kind} of {n_letters} letters, at most {self.max_document_bytes}")
                continue
            how = f"{EXTRACTION}, {AS_WRITTEN if place.strand == '+' else OTHER_STRAND}"
            yield maker.row(
                place.cut(sequence), location, record.accession, place.start, place.end, place.strand,
                {**meta, **_own(feature)}, f"{number}:{feature.location}", how,
            )  # fmt: skip


def _meta(record: GenBankRecord) -> dict[str, str]:
    """What a record says of itself."""
    of_source = next((one.qualifiers for one in record.features if one.kind == "source"), {})
    found = {
        "locus": record.name, "description": record.fields.get("DEFINITION", ""), "molecule": record.molecule,
        "organism": record.fields.get("ORGANISM", ""), "topology": record.topology, "division": record.division,
        "date": record.date, "n_features": str(record.n_features.total()),
        "feature_counts": json.dumps(dict(sorted(record.n_features.items()))) if record.n_features else "",
    }  # fmt: skip
    found |= {name: of_source[name] for name in SOURCE_QUALIFIERS if name in of_source and not found.get(name)}
    return {name: value for name, value in found.items() if value and value != "."}


def _own(feature: Feature) -> dict[str, str]:
    """What a feature says of itself."""
    partial = {"partial": "true"} if "<" in feature.location or ">" in feature.location else {}
    return {"feature": feature.kind, "location": feature.location, **partial, **feature.qualifiers}
