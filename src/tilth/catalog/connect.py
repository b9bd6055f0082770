"""In-memory connections with Tilth's views: they take no file lock, load no extension and ask no network."""

from __future__ import annotations

import contextlib
import os
import tempfile
import uuid
from collections.abc import Collection, Iterator
from pathlib import Path

import duckdb

from tilth.artifacts import Store
from tilth.catalog.project import project

_MEMORY_SHARE = 0.6  # of what DuckDB would take by itself (80 % of what the machine or container has)


def connect(store: Store, corpora: Collection[str] | None = None) -> duckdb.DuckDBPyConnection:
    """A connection with all views (of `corpora` alone, where given). Raises StoreError when a named file is gone."""
    connection = open_in_memory(store.root / "catalog")
    project(connection, store, corpora=corpora)
    return connection


def open_in_memory(spill: Path) -> duckdb.DuckDBPyConnection:
    """An empty in-memory database with Tilth's settings; what exceeds its memory is spilled into the folder `spill`."""
    connection = duckdb.connect(
        ":memory:",
        config={
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
            "python_enable_replacements": "false",  # `from store` must not find a Python variable
            "threads": str(len(os.sched_getaffinity(0))),
            "temp_directory": _spill_folder(spill),
        },
    )
    number, unit = _one(connection, "select current_setting('memory_limit')").split()
    connection.execute(f"set memory_limit = '{float(number) * _MEMORY_SHARE:.1f}{unit}'")
    return connection


@contextlib.contextmanager
def stopping(connection: duckdb.DuckDBPyConnection) -> Iterator[None]:
    """Around a user's query: Ctrl-C stops it and is a KeyboardInterrupt again (DuckDB makes a RuntimeError of it)."""
    try:
        yield
    except RuntimeError as error:
        if "Query interrupted" not in str(error):
            raise
        # Closing the connection would wait for a query whose tasks nobody has told to stop.
        connection.interrupt()
        raise KeyboardInterrupt from error


def _spill_folder(wanted: Path) -> str:
    # DuckDB makes it on the first spill and removes it on close; two connections must not share one.
    parent = str(wanted) if os.access(wanted, os.W_OK) else tempfile.gettempdir()
    return os.path.join(parent, f".spill-{os.getpid()}-{uuid.uuid4().hex[:8]}")


def _one(connection: duckdb.DuckDBPyConnection, query: str) -> str:
    row = connection.execute(query).fetchone()
    return str(row[0]) if row else ""
