"""Turns a stream of documents and rejects into Arrow batches of bounded size; every record comes out exactly once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from typing import Any, NamedTuple

import pyarrow as pa

from tilth.contracts import DOCUMENTS, LICENCES, OCCURRENCES, REJECTS, uuid_array
from tilth.corpus.provenance.spdx_expressions import strictness
from tilth.corpus.provenance.swhid import content_swhid
from tilth.corpus.records import Document, LicenceClaim, Occurrence, Reject, Shard, printable

MAX_TEXT_BYTES = 32 << 20
MAX_RECORDS = 50_000
# What a row of each table is collected as.
IDENTITY = ("doc_id", "shard", "row")
DOCUMENT = (
    *IDENTITY, "source", "url", "text", "text_swhid", "raw_swhid", "encoding", "extraction", "n_bytes", "n_chars", "language",
    "meta",
)  # fmt: skip
OCCURRENCE = (*IDENTITY, *(field.name for field in fields(Occurrence)))
LICENCE = (*IDENTITY, *LicenceClaim._fields, "strictness")
REJECT = ("shard", "source", *(field.name for field in fields(Reject)))
Row = tuple[Any, ...]


class ShardBatch(NamedTuple):
    """Some rows of a shard, one batch for each contract; rows are numbered on from the batch before."""

    documents: pa.RecordBatch
    occurrences: pa.RecordBatch
    licences: pa.RecordBatch
    rejects: pa.RecordBatch


def batches(records: Iterable[Document | Reject], shard: Shard, max_text_bytes: int = MAX_TEXT_BYTES) -> Iterator[ShardBatch]:
    """Collect records until `max_text_bytes` of text. At least one batch comes out, an empty one if nothing went in.

    Text that UTF-8 cannot hold (a lone surrogate) becomes a reject `decode`.
    """
    n_rows = 0
    collector = _Collector(shard, n_rows)
    empty = True
    for record in records:
        collector.add(record)
        if collector.n_text_bytes >= max_text_bytes or collector.n_records >= MAX_RECORDS:
            yield collector.finish()
            n_rows, empty = collector.next_row, False
            collector = _Collector(shard, n_rows)
    if collector.n_records or empty:
        yield collector.finish()


class _Collector:
    """The columns of one batch while it fills."""

    def __init__(self, shard: Shard, first_row: int) -> None:
        self.shard, self.next_row = shard, first_row
        self.n_text_bytes = self.n_records = 0
        self.documents: list[Row] = []
        self.occurrences: list[Row] = []
        self.licences: list[Row] = []
        self.rejects: list[Row] = []

    def add(self, record: Document | Reject) -> None:
        self.n_records += 1
        if isinstance(record, Reject):
            self._add_reject(record)
            return
        try:
            data = record.text.encode("utf-8")
        except UnicodeEncodeError as error:
            location = record.occurrences[0].path if record.occurrences else record.doc_id.hex()
            self._add_reject(Reject(location, "decode", f"text cannot be written as UTF-8: {error.reason}"))
            return
        self._add_document(record, data)

    def _add_reject(self, reject: Reject) -> None:
        self.rejects.append((self.shard.name, self.shard.source, *vars(reject).values()))

    def _add_document(self, document: Document, data: bytes) -> None:
        identity = document.doc_id, self.shard.name, self.next_row
        self.next_row += 1
        self.n_text_bytes += len(data)
        meta = sorted((printable(key), printable(value)) for key, value in document.meta.items())
        self.documents.append((
            *identity, self.shard.source, document.url, document.text, content_swhid(data), document.raw_swhid,
            document.encoding, document.extraction, len(data), len(document.text), document.language, meta,
        ))  # fmt: skip
        self.occurrences += [(*identity, *vars(occurrence).values()) for occurrence in document.occurrences]
        self.licences += [(*identity, *claim, strictness(claim.spdx)) for claim in document.licences]

    def finish(self) -> ShardBatch:
        """The four record batches."""
        return ShardBatch(
            _record_batch(DOCUMENT, self.documents, DOCUMENTS.schema),
            _record_batch(OCCURRENCE, self.occurrences, OCCURRENCES.schema),
            _record_batch(LICENCE, self.licences, LICENCES.schema),
            _record_batch(REJECT, self.rejects, REJECTS.schema),
        )


def _record_batch(names: Sequence[str], rows: Sequence[Row], schema: pa.Schema) -> pa.RecordBatch:
    columns = dict(zip(names, zip(*rows, strict=True) if rows else [()] * len(names), strict=True))
    return pa.RecordBatch.from_arrays([_array(columns[field.name], field) for field in schema], schema=schema)


def _array(values: Sequence[Any], field: pa.Field) -> pa.Array:
    if field.name == "doc_id":
        return uuid_array(list(values))
    try:
        return pa.array(values, field.type)
    except UnicodeEncodeError:  # a file's name that is not UTF-8
        return pa.array([printable(value) if isinstance(value, str) else value for value in values], field.type)
