"""signals/1: the numbers of one family of signals, row-aligned with the documents of a shard.

A family adds typed columns of its own; null means "undefined for this document", and
the companion column `<family>_undefined` says why.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from tilth.contracts.contract import ROW, SHARD, Contract, contract

SIGNALS = contract("signals", 1, [SHARD, ROW], key=("shard", "row"), open=True)


def family_contract(family: str, columns: dict[str, pa.DataType[Any]]) -> Contract:
    """The closed contract of one family: SIGNALS plus its columns and the companion."""
    fields = [pa.field(name, kind) for name, kind in columns.items()]
    return contract("signals", 1, [SHARD, ROW, *fields, pa.field(f"{family}_undefined", pa.string())], key=("shard", "row"))
