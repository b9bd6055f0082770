"""Turns a stream of documents and rejects into Arrow batches of bounded size; every record comes out exactly once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import pyarrow as pa

from tilth.contracts import DOCUMENTS, LICENCES, OCCURRENCES, REJECTS, uuid_array
from tilth.corpus.provenance.spdx_expressions import strictness
from tilth.corpus.provenance.swhid import content_swhid
from tilth.corpus.records import Document, Reject, Shard, printable

MAX_TEXT_BYTES = 32 << 20
MAX_RECORDS = 50_000


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
        self.documents: list[dict[str, Any]] = []
        self.occurrences: list[dict[str, Any]] = []
        self.licences: list[dict[str, Any]] = []
        self.rejects: list[dict[str, Any]] = []

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
        self.rejects.append({"shard": self.shard.name, "source": self.shard.source, **vars(reject)})

    def _add_document(self, document: Document, data: bytes) -> None:
        identity = {"doc_id": document.doc_id, "shard": self.shard.name, "row": self.next_row}
        self.next_row += 1
        self.n_text_bytes += len(data)
        self.documents.append({
            **identity, "source": self.shard.source, "url": document.url, "text": document.text, "language": document.language,
            "text_swhid": content_swhid(data), "raw_swhid": document.raw_swhid, "encoding": document.encoding,
            "extraction": document.extraction, "n_bytes": len(data), "n_chars": len(document.text),
            "meta": sorted((printable(key), printable(value)) for key, value in document.meta.items()),
        })  # fmt: skip
        self.occurrences += [{**identity, **vars(occurrence)} for occurrence in document.occurrences]
        self.licences += [{**identity, **claim._asdict(), "strictness": strictness(claim.spdx)} for claim in document.licences]

    def finish(self) -> ShardBatch:
        """The four record batches."""
        return ShardBatch(
            _record_batch(self.documents, DOCUMENTS.schema),
            _record_batch(self.occurrences, OCCURRENCES.schema),
            _record_batch(self.licences, LICENCES.schema),
            _record_batch(self.rejects, REJECTS.schema),
        )


def _record_batch(rows: list[dict[str, Any]], schema: pa.Schema) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([_array([row[field.name] for row in rows], field) for field in schema], schema=schema)


def _array(values: list[Any], field: pa.Field) -> pa.Array:
    if field.name == "doc_id":
        return uuid_array(values)
    try:
        return pa.array(values, field.type)
    except UnicodeEncodeError:  # a file's name that is not UTF-8
        return pa.array([printable(value) if isinstance(value, str) else value for value in values], field.type)
