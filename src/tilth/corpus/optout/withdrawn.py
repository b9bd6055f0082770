"""Reads a shard without what was withdrawn from it; each document that goes leaves a counted reject that names nobody."""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from tilth.corpus.records import Document, LicenceClaim, Occurrence, Reject, printable

REASON = "withdrawn"


@dataclass(frozen=True)
class Withdrawn:
    """What is withdrawn from one shard, as digests: documents whole, some of their occurrences, and rejects by location."""

    documents: frozenset[str] = frozenset()
    occurrences: frozenset[str] = frozenset()
    rejects: frozenset[str] = frozenset()

    def __or__(self, other: Withdrawn) -> Withdrawn:
        return Withdrawn(*(getattr(self, name) | getattr(other, name) for name in FIELDS))

    def __bool__(self) -> bool:
        return any(getattr(self, name) for name in FIELDS)

    @property
    def digest(self) -> str:
        """Of all digests: an input of the shard's read. sha256, hexadecimal."""
        lines = [f"{name} {digest}" for name in FIELDS for digest in sorted(getattr(self, name))]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()


FIELDS = tuple(field.name for field in dataclasses.fields(Withdrawn))


def content_digest(swhid: str) -> str:
    """What stands for a content in public: sha256 of its SWHID, which whoever has the content can compute as well."""
    return hashlib.sha256(swhid.encode()).hexdigest()


def document_digest(doc_id: bytes) -> str:
    """What stands for a document: sha256 of its 16 bytes."""
    return hashlib.sha256(doc_id).hexdigest()


def occurrence_digest(key: bytes, doc_id: bytes, origin: str, path: str, revision: str | None = None) -> str:
    """What stands for a document's occurrence at a path; with `revision`, for the one of that commit alone."""
    return _keyed(key, doc_id.hex(), origin, path, revision or "")


def reject_digest(key: bytes, location: str) -> str:
    """What stands for the place of a reject."""
    return _keyed(key, location)


def without(records: Iterable[Document | Reject], withdrawn: Withdrawn, key: bytes) -> Iterator[Document | Reject]:
    """The records, less what was withdrawn; as many come out as go in."""
    for record in records:
        if isinstance(record, Reject):
            digest = reject_digest(key, printable(record.location))
            yield _reject(digest) if digest in withdrawn.rejects else record
            continue
        identity = document_digest(record.doc_id)
        kept = (
            []
            if identity in withdrawn.documents
            else [one for one in record.occurrences if not _goes(one, record, withdrawn, key)]
        )
        if not kept and (record.occurrences or identity in withdrawn.documents):
            yield _reject(content_digest(record.raw_swhid))
        elif len(kept) < len(record.occurrences):
            places = {(one.origin, one.path) for one in kept}
            yield dataclasses.replace(record, occurrences=kept, licences=_of_places(record.licences, places))
        else:
            yield record


def _of_places(claims: list[LicenceClaim], places: set[tuple[str, str]]) -> list[LicenceClaim]:
    return [claim for claim in claims if (claim.origin, claim.path) in places]


def _goes(occurrence: Occurrence, document: Document, withdrawn: Withdrawn, key: bytes) -> bool:
    place = printable(occurrence.origin), printable(occurrence.path)
    digests = (occurrence_digest(key, document.doc_id, *place, revision) for revision in (None, occurrence.revision))
    return bool(withdrawn.occurrences) and any(digest in withdrawn.occurrences for digest in digests)


def _reject(digest: str) -> Reject:
    return Reject(f"sha256:{digest}", REASON, "forgotten on request")


def _keyed(key: bytes, *parts: str) -> str:
    message = "\0".join(parts).encode("utf-8", "surrogateescape")
    return hmac.new(key, message, hashlib.sha256).hexdigest()
