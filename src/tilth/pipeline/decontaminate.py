"""Looks for benchmarks in the user's own files without a project: files in, one Parquet file of spans out."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tilth.artifacts.atomic import disk_errors, sync_folder
from tilth.contracts import CONTAMINATION
from tilth.corpus.records import Document, fingerprint
from tilth.dedup.contamination.items import read_items
from tilth.dedup.contamination.ngram_index import BenchmarkIndex, build_index
from tilth.dedup.contamination.overlaps import find_contamination
from tilth.dedup.contamination.parameters import OverlapParameters
from tilth.errors import RecipeError, SourceError, did_you_mean
from tilth.pipeline.contamination_steps import Found
from tilth.pipeline.progress import progress
from tilth.pipeline.score_inputs import Fields, Input, find_inputs

BATCH_BYTES, BATCH_ROWS = 8 << 20, 2_000
# `row` counts the rows of the file, those that could not be read included; `id` is the record's own.
COLUMNS = pa.schema(
    [pa.field("file", pa.string(), nullable=False), pa.field("row", pa.int32(), nullable=False), pa.field("id", pa.string())]
    + [field for field in CONTAMINATION.schema if field.name not in ("shard", "row")]
)


@dataclass(frozen=True)
class Searched:
    """What was read, and what was found of each benchmark."""

    n_documents: int
    n_rejected: int
    n_contaminated: int  # documents
    n_spans: int
    benchmarks: Sequence[Found]


def index_of(
    benchmarks: Mapping[str, str], fields: Mapping[str, Sequence[str]], parameters: OverlapParameters
) -> BenchmarkIndex:  # fmt: skip
    """The index of benchmark files. Raises SourceError for one in which nothing can be looked for."""
    for name in fields:
        if name not in benchmarks:
            raise RecipeError(f"fields are given for `{name}`, which is no benchmark", "--field", did_you_mean(name, benchmarks))
    items = {name: read_items(path, fields.get(name, ())) for name, path in benchmarks.items()}
    digests = {name: fingerprint(Path(path).expanduser()) for name, path in benchmarks.items()}
    return BenchmarkIndex(build_index(items, parameters, digests))


def decontaminate(files: Sequence[str], index: BenchmarkIndex, output: Path, fields: Fields | None = None) -> Searched:
    """Write what the documents of `files` (paths, folders, patterns, URLs) hold of the benchmarks to `output` (COLUMNS).

    The file is whole or not there. Raises SourceError where nothing can be read, StoreError where it cannot be written.
    """
    own = os.path.abspath(output)
    inputs = [one for one in find_inputs(files, fields or Fields(), output) if os.path.abspath(one.location) != own]
    partial = output.with_name(f".partial-{output.name}")
    schema = COLUMNS.with_metadata({**(index.table.schema.metadata or {})})
    counts = {"documents": 0, "rejects": 0, "spans": 0}
    items: dict[str, set[str]] = defaultdict(set)
    places: dict[str, set[tuple[str, int]]] = defaultdict(set)
    with disk_errors(output):
        try:
            with pq.ParquetWriter(partial, schema, compression="zstd") as writer, progress("search", len(inputs)) as advance:
                for one in inputs:
                    for batch in _batches(one, counts):
                        for found in find_contamination([batch], index):
                            if found.num_rows:
                                writer.write_table(_with_ids(found, batch).cast(schema))
                            counts["spans"] += found.num_rows
                            for name, item, row in zip(*(found.column(c).to_pylist() for c in ("benchmark", "item", "row"))):
                                items[name].add(item)
                                places[name].add((one.name, row))
                    advance(one.name)
            _refuse_nothing(counts, files)
            os.replace(partial, output)
            sync_folder(output.absolute().parent)
        finally:
            partial.unlink(missing_ok=True)
    found_of = [
        Found(name, *searched, len(items[name]), len(places[name])) for name, searched in sorted(index.searched.items())
    ]  # fmt: skip
    n_contaminated = len(set().union(*places.values()))
    return Searched(counts["documents"], counts["rejects"], n_contaminated, counts["spans"], found_of)


def _refuse_nothing(counts: Mapping[str, int], files: Sequence[str]) -> None:
    if not counts["documents"]:
        what = f"no document could be read; {counts['rejects']:,} rows are no documents"
        raise SourceError(what, ", ".join(files[:3]), "Name the field of the text: `--text FIELD`.")


def _batches(one: Input, counts: dict[str, int]) -> Iterator[pa.RecordBatch]:
    """The documents of a file: shard (its name), row, id and text."""
    rows: list[tuple[str, int, str | None, str]] = []
    n_bytes = 0
    for number, row in enumerate(one.rows()):
        if not isinstance(row, Document):
            counts["rejects"] += 1
            continue
        counts["documents"] += 1
        rows.append((one.name, number, row.meta.get("id"), row.text))
        n_bytes += len(row.text)
        if n_bytes >= BATCH_BYTES or len(rows) >= BATCH_ROWS:
            yield _as_batch(rows)
            rows, n_bytes = [], 0
    if rows:
        yield _as_batch(rows)


def _as_batch(rows: list[tuple[str, int, str | None, str]]) -> pa.RecordBatch:
    kinds = {"shard": pa.string(), "row": pa.int32(), "id": pa.string(), "text": pa.large_string()}
    columns = [pa.array(column, kind) for column, kind in zip(zip(*rows), kinds.values())]
    return pa.RecordBatch.from_arrays(columns, list(kinds))


def _with_ids(found: pa.Table, batch: pa.RecordBatch) -> pa.Table:
    ids = dict(zip(batch.column("row").to_pylist(), batch.column("id").to_pylist()))
    own = pa.array([ids[row] for row in found.column("row").to_pylist()], pa.string())
    columns = {**{name: found.column(name) for name in found.column_names}, "file": found.column("shard"), "id": own}
    return pa.table([columns[name] for name in COLUMNS.names], schema=COLUMNS)
