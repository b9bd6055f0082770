"""Names, texts and file lists as SQL, such that no name or path can be read as anything else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

_GLOB_CHARACTERS = "[*?"


def identifier(name: str) -> str:
    """`select` -> `"select"`."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """`it's` -> `'it''s'`."""
    return "'" + text.replace("'", "''") + "'"


def read_parquet(paths: Iterable[Path], *, row_number: bool = False) -> str:
    """A relation over exactly these files. Neither a glob nor a `key=value` folder in a path means anything."""
    listed = ", ".join(literal(_without_glob(str(path))) for path in paths)
    extra = ", file_row_number = true" if row_number else ""
    return f"read_parquet([{listed}], union_by_name = true, hive_partitioning = false{extra})"


def no_rows(columns: Mapping[str, str]) -> str:
    """A relation with typed columns and no row, for what a corpus does not have."""
    return f"(select {', '.join(f'null::{kind} as {identifier(name)}' for name, kind in columns.items())} where false)"


def _without_glob(path: str) -> str:
    # A character class of one is DuckDB's only escape inside a pattern.
    return "".join(f"[{character}]" if character in _GLOB_CHARACTERS else character for character in path)
