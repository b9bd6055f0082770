"""What the sources of nucleotides have in common: a stretch of a sequence becomes a document, or a reject that says why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tilth.corpus.formats.nucleotides import described, find_other
from tilth.corpus.provenance.swhid import content_swhid
from tilth.corpus.records import Document, Occurrence, Reject, document_id, printable
from tilth.corpus.web_pages import declared_claims

AS_WRITTEN, OTHER_STRAND = "as written", "reverse complement"


@dataclass(frozen=True)
class SequenceRows:
    """Makes rows of one file. `kind` is what ids and occurrences say: fasta, genbank, bed.

    `fixed` is in the meta of every document (assembly, label), beside that of the stretch itself.
    """

    source: str
    kind: str
    file: str
    licence: str | None
    fixed: Mapping[str, str]

    def row(
        self, letters: bytes, location: str, sequence: str, start: int, end: int, strand: str, meta: Mapping[str, str],
        identity: str = "", extraction: str = AS_WRITTEN,
    ) -> Document | Reject:  # fmt: skip
        """`letters` from `start` to `end` (from 0, half open) of `sequence`, or a reject: empty, invalid_character.

        Places are those of the strand `+`, whichever is read. `identity` tells apart rows that this does not.
        """
        if not letters:
            return Reject(location, "empty", f"`{sequence}` has no letters")
        at = find_other(letters)
        if at is not None:
            place = end - 1 - at if strand == "-" else start + at
            what = f"{described(letters, at)} at {place} of `{sequence}` is no nucleotide"
            return Reject(location, "invalid_character", printable(what))
        text, swhid = letters.decode("ascii"), content_swhid(letters)
        own = {"sequence": sequence, "start": str(start), "end": str(end), "strand": strand, "file": self.file}
        region = f"{sequence}:{start}-{end}({strand})"
        path = printable(self.file)
        return Document(
            doc_id=document_id(self.kind, self.source, self.file, location, region, identity, swhid), text=text,
            raw_swhid=swhid, encoding="ascii", extraction=extraction, meta={**meta, **self.fixed, **own},
            occurrences=[Occurrence(self.kind, self.source, self.file, record_id=printable(region))],
            licences=declared_claims(self.licence, self.source, path),
        )  # fmt: skip
