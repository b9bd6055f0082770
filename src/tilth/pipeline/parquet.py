"""Parquet as the steps use it: streamed batch by batch, the same bytes for the same rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tilth.artifacts import Artifact
from tilth.contracts import Contract, check

BATCH_ROWS = 2_000


class Writer:
    """Writes batches of one contract to a file, checking each; a file without rows still has its schema."""

    def __init__(self, path: Path, contract: Contract) -> None:
        self.contract, self.n_rows = contract, 0
        self._file = pq.ParquetWriter(path, contract.schema, compression="zstd")

    def write(self, batch: pa.RecordBatch | pa.Table) -> None:
        """Append `batch`; ContractError if it is not what was promised."""
        check(batch, self.contract)
        table = pa.Table.from_batches([batch]) if isinstance(batch, pa.RecordBatch) else batch
        self._file.write_table(table.select(self.contract.schema.names).cast(self.contract.schema))
        self.n_rows += table.num_rows

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()


def write_table(path: Path, table: pa.Table, contract: Contract) -> int:
    """Write one table; returns its rows."""
    with Writer(path, contract) as writer:
        writer.write(table)
    return writer.n_rows


def stream(artifact: Artifact, name: str, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
    """Batches of at most BATCH_ROWS rows of a Parquet file of an artifact."""
    # Without reading ahead: a step may stream from fifty files at once.
    with pq.ParquetFile(artifact.path / name, pre_buffer=False) as file:
        yield from file.iter_batches(BATCH_ROWS, columns=list(columns) if columns else None)


def read_columns(artifact: Artifact, name: str, columns: Sequence[str] | None = None) -> pa.Table:
    """A whole file, or some columns of it."""
    with pq.ParquetFile(artifact.path / name) as file:
        return file.read(columns=list(columns) if columns else None)


def rows_of(artifact: Artifact, name: str, columns: Sequence[str], rows: Sequence[int]) -> list[dict[str, Any]]:
    """The given rows (numbers within the shard, ascending), reading only the row groups that hold them."""
    wanted, first = sorted(rows), 0
    found: list[dict[str, Any]] = []
    with pq.ParquetFile(artifact.path / name) as file:
        for group in range(file.num_row_groups):
            n_rows = file.metadata.row_group(group).num_rows
            here = [row - first for row in wanted if first <= row < first + n_rows]
            if here:
                found += file.read_row_group(group, columns=list(columns)).take(here).to_pylist()
            first += n_rows
    return found
