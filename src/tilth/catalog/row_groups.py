"""A query's answer as a Parquet file: written with bounded memory, the same bytes for the same rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from tilth.contracts import Contract, check

_ROWS_PER_GROUP = 131_072


def write_rows(
    connection: duckdb.DuckDBPyConnection, query: str, path: Path, contract: Contract, metadata: Mapping[str, str] | None = None
) -> int:
    """Write the ordered rows of `query` as `contract` promises and return how many; `metadata` is added to the contract's."""
    connection.execute("set arrow_lossless_conversion = true")  # UUIDs stay UUIDs
    added = {key.encode(): value.encode() for key, value in (metadata or {}).items()}
    schema = contract.schema.with_metadata({**(contract.schema.metadata or {}), **added})
    return write_as(connection, query, path, schema, contract)


def write_as(
    connection: duckdb.DuckDBPyConnection, query: str, path: Path, schema: pa.Schema, contract: Contract | None = None
) -> int:
    """Write the ordered rows of `query` with `schema`, checked by `contract` where there is one; returns how many."""
    reader = connection.sql(query).to_arrow_reader(_ROWS_PER_GROUP)
    n_rows = 0
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for group in _regroup(reader):
            columns = [group.column(name).combine_chunks() for name in schema.names]
            rows = pa.Table.from_arrays(columns, schema=contract.schema if contract else schema)
            if contract:
                check(rows, contract)
            writer.write_table(rows.cast(schema), row_group_size=_ROWS_PER_GROUP)
            n_rows += rows.num_rows
    return n_rows


def _regroup(reader: pa.RecordBatchReader) -> Iterator[pa.Table]:
    """Tables of exactly _ROWS_PER_GROUP rows (the last may be shorter): batch sizes depend on threads, the file must not."""
    held: list[pa.RecordBatch] = []
    n_held = 0
    for batch in reader:
        held.append(batch)
        n_held += batch.num_rows
        while n_held >= _ROWS_PER_GROUP:
            table = pa.Table.from_batches(held)
            yield table.slice(0, _ROWS_PER_GROUP)
            rest = table.slice(_ROWS_PER_GROUP)
            held, n_held = rest.to_batches(), rest.num_rows
    if n_held:
        yield pa.Table.from_batches(held)
