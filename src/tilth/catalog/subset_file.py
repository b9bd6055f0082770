"""subset.parquet: written from DuckDB with bounded memory, the same bytes for the same rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from tilth.contracts import SUBSET, check

_ROWS_PER_GROUP = 131_072
_QUERY = """
select doc_id, shard, row, n_copies::float as weight, split, n_tokens::bigint as n_tokens
from subset_rows order by shard, row"""


def write_subset(connection: duckdb.DuckDBPyConnection, path: Path, metadata: Mapping[str, str]) -> None:
    """Write the relation `subset_rows` in the order of (shard, row); `metadata` is added to the contract's."""
    connection.execute("set arrow_lossless_conversion = true")  # UUIDs stay UUIDs
    reader = connection.sql(_QUERY).to_arrow_reader(_ROWS_PER_GROUP)
    schema = SUBSET.schema.with_metadata(
        {**(SUBSET.schema.metadata or {}), **{key.encode(): value.encode() for key, value in metadata.items()}}
    )
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for group in _regroup(reader):
            rows = pa.Table.from_arrays(
                [group.column(name).combine_chunks() for name in SUBSET.schema.names], schema=SUBSET.schema
            )
            check(rows, SUBSET)
            writer.write_table(rows.cast(schema), row_group_size=_ROWS_PER_GROUP)


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
