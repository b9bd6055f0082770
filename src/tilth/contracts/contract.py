"""What a contract is, and the one function that holds data to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from tilth.errors import ContractError

UUID = pa.uuid()
SHARD, ROW = pa.field("shard", pa.string(), nullable=False), pa.field("row", pa.int32(), nullable=False)
DOC_ID = pa.field("doc_id", UUID, nullable=False)


@dataclass(frozen=True)
class Contract:
    """A named, versioned Arrow schema. Columns that are not nullable must hold no null."""

    name: str
    version: int
    schema: pa.Schema
    key: tuple[str, ...] = ()
    open: bool = False  # further columns may follow (a family of signals adds its own)

    @property
    def label(self) -> str:
        """`documents/1`, as written into the metadata of every file."""
        return f"{self.name}/{self.version}"


def contract(name: str, version: int, fields: list[pa.Field[Any]], key: tuple[str, ...] = (), open: bool = False) -> Contract:
    """Make a contract whose schema carries `tilth.contract` in its metadata."""
    schema = pa.schema(fields, metadata={"tilth.contract": f"{name}/{version}"})
    return Contract(name, version, schema, key, open)


def check(table: pa.Table | pa.RecordBatch, against: Contract) -> None:
    """Raise ContractError unless `table` has exactly the contract's columns, types, non-nulls and unique keys."""
    wanted = {field.name: field for field in against.schema}
    found = table.schema
    missing = [name for name in wanted if name not in found.names]
    extra = [] if against.open else [name for name in found.names if name not in wanted]
    if missing or extra:
        raise ContractError(
            f"`{against.label}` is violated: missing columns {missing}, unknown columns {extra}", where=against.label
        )
    for name, field in wanted.items():
        if found.field(name).type != field.type:
            raise ContractError(
                f"`{against.label}`: column `{name}` is {found.field(name).type}, not {field.type}", where=against.label
            )
        if not field.nullable and table.column(name).null_count:
            raise ContractError(
                f"`{against.label}`: column `{name}` holds {table.column(name).null_count} nulls", where=against.label
            )
    if against.key:
        _check_unique(table, against)


def _check_unique(table: pa.Table | pa.RecordBatch, against: Contract) -> None:
    keys = pa.table({name: table.column(name) for name in against.key})
    n_groups = keys.group_by(list(against.key)).aggregate([([], "count_all")]).num_rows
    if n_groups != table.num_rows:
        raise ContractError(
            f"`{against.label}`: {table.num_rows - n_groups} rows repeat the key {against.key}", where=against.label
        )


def uuid_array(ids: list[bytes]) -> pa.Array[Any]:
    """Turn 16-byte ids into an Arrow UUID array."""
    return pa.ExtensionArray.from_storage(UUID, pa.array(ids, pa.binary(16)))


def uuid_bytes(column: pa.Array[Any] | pa.ChunkedArray[Any]) -> list[bytes]:
    """The inverse of `uuid_array`."""
    return _storage(column).to_pylist()


def _storage(column: pa.Array[Any] | pa.ChunkedArray[Any]) -> pa.Array[Any]:
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    return column.storage if isinstance(column, pa.ExtensionArray) else column
