"""One order of documents by the keys of a keeper rule: the values to order by, and what `order by` takes."""

from __future__ import annotations

from collections.abc import Sequence

import duckdb

from tilth.catalog.keeper_rule import Key

_FLOATS = ("FLOAT", "DOUBLE")


def key_values(connection: duckdb.DuckDBPyConnection, documents: str, names: Sequence[str], keys: Sequence[Key]) -> str:
    """A relation of the columns `names` of the relation `documents`, and k0, k1, ...: the values of `keys`."""
    columns = ", ".join([*names, *(f"({key.sql}) as k{number}" for number, key in enumerate(keys))])
    values = f"select {columns} from {documents}"
    kinds = [row[1] for row in connection.execute(f"describe {values}").fetchall()][len(names) :]
    # DuckDB puts NaN above every number; a value that is none must not win.
    known = [f"case when isnan(k{n}) then null else k{n} end as k{n}" for n, kind in enumerate(kinds) if kind in _FLOATS]
    shown = f"* replace ({', '.join(known)})" if known else "*"
    return f"(select {shown} from ({values}))"


def in_order(keys: Sequence[Key], *last: str) -> str:
    """What `order by` takes to put the best first, given `key_values`; `last` are columns that decide between equals."""
    return ", ".join([*(f"k{number} {key.direction} nulls {key.nulls}" for number, key in enumerate(keys)), *last])
