"""What `score` writes for one input: a Parquet file or JSON lines, a row for every row of the input, rejected ones too."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from tilth.contracts import uuid_array
from tilth.corpus.records import Document, Reject
from tilth.pipeline.interchange.redpajama_v2_files import PackedLines, ShardWriter
from tilth.pipeline.score_signals import Chosen, ScoredBatch

WHERE = (
    pa.field("row", pa.int64(), nullable=False),  # from 0, over documents and rejects
    pa.field("location", pa.string(), nullable=False),  # in the input: file and line, row or record
    pa.field("id", pa.string()),  # what the record calls itself
    pa.field("doc_id", pa.uuid()),
    pa.field("url", pa.string()),
    pa.field("language", pa.string()),
    pa.field("reject", pa.string()),  # why it is no document; null for documents, as its signals are for rejects
    pa.field("reject_detail", pa.string()),
)
SUFFIXES = {"parquet": ".signals.parquet", "jsonl": ".signals.jsonl.gz"}


class Output(Protocol):
    """Takes batches in order."""

    def write(self, batch: ScoredBatch) -> None:
        """Append the rows of a batch."""
        ...

    def close(self) -> None:
        """Finish the file."""
        ...


def schema_of(chosen: Chosen) -> pa.Schema:
    """The columns of the output: where a row is from, then every family's, each followed by why it is null."""
    fields = list(WHERE)
    for family in chosen.families:
        fields += [pa.field(name, kind) for name, kind in family.columns.items()]
        fields.append(pa.field(f"{family.name}_undefined", pa.string()))
    return pa.schema(fields)


class ParquetOutput:
    """Rows as Parquet, a row group for each batch."""

    def __init__(self, path: Path, chosen: Chosen) -> None:
        self._schema = schema_of(chosen)
        self._file = pq.ParquetWriter(path, self._schema, compression="zstd")
        self._n_rows = 0

    def write(self, batch: ScoredBatch) -> None:
        """Append the rows of a batch."""
        self._file.write_table(as_table(batch, self._schema, self._n_rows))
        self._n_rows += len(batch.rows)

    def close(self) -> None:
        """Finish the file."""
        self._file.close()


class JsonLinesOutput:
    """The same rows as gzip-packed JSON lines."""

    def __init__(self, path: Path, chosen: Chosen) -> None:
        self._schema = schema_of(chosen)
        self._file = PackedLines(path)
        self._n_rows = 0

    def write(self, batch: ScoredBatch) -> None:
        """Append the rows of a batch."""
        table = as_table(batch, self._schema, self._n_rows)
        self._file.write([{name: _jsonable(value) for name, value in row.items()} for row in table.to_pylist()])
        self._n_rows += len(batch.rows)

    def close(self) -> None:
        """Finish the file."""
        self._file.close()


class LayoutOutput:
    """A shard of RedPajama-V2's layout, and what was rejected below `manifests/rejects`."""

    def __init__(self, folder: Path, name: str, snapshot: str, shard: str, group: str | None) -> None:
        path = folder / "manifests" / "rejects" / f"{name}.jsonl.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        self._shard, self._rejects = ShardWriter(folder, snapshot, shard, group), PackedLines(path)

    def write(self, batch: ScoredBatch) -> None:
        """Append the documents of a batch, and its rejects."""
        if documents := batch.documents:
            self._shard.write(documents, batch.texts, batch.signals)
        rejects = [row for row in batch.rows if isinstance(row, Reject)]
        self._rejects.write([{name: _printable(value) for name, value in vars(row).items()} for row in rejects])

    def close(self) -> None:
        """Finish all files."""
        self._shard.close()
        self._rejects.close()


def as_table(batch: ScoredBatch, schema: pa.Schema, first_row: int) -> pa.Table:
    """The rows of a batch, rejects between documents as they came, with `schema_of`'s columns."""
    numbers = itertools.count()
    places = pa.array([next(numbers) if isinstance(row, Document) else None for row in batch.rows], pa.int64())
    columns: dict[str, Any] = {
        name: column.take(places)
        for table in batch.signals.values()
        for name, column in zip(table.column_names, table.columns)
        if name not in ("shard", "row")
    }
    where = list(zip(*(_where(row) for row in batch.rows)))
    columns["row"] = pa.array(range(first_row, first_row + len(batch.rows)), pa.int64())
    for field, values in zip(WHERE[1:], where):
        columns[field.name] = _uuids(values) if field.name == "doc_id" else pa.array(values, field.type)
    return pa.table([columns[name] for name in schema.names], schema=schema)


def _where(row: Document | Reject) -> Iterator[Any]:
    if isinstance(row, Reject):
        return iter((_printable(row.location), None, None, None, None, row.reason, _printable(row.detail)))
    seen = row.occurrences[0]
    place = f"{seen.path}:{seen.record_id}" if seen.record_id else seen.path
    return iter((_printable(place), row.meta.get("id"), row.doc_id, row.url, row.language, None, None))


def _uuids(values: tuple[bytes | None, ...]) -> pa.Array:
    storage = pa.array(values, pa.binary(16))
    return pa.ExtensionArray.from_storage(uuid_array([]).type, storage)


def _printable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def _jsonable(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, int | float | str | list) else str(value)


def dumps(value: Any) -> bytes:
    """JSON for people, with sorted fields."""
    return json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False).encode()
