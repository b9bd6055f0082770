"""What verbs print: tables as wide as they need to be, numbers to the right, nothing but text; and JSON."""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tilth.errors import UserError

MAX_CELL = 60
WIDTH = 120  # where there is no terminal
INDENT = "  "


def say(message: str) -> None:
    """Talk goes to stderr; stdout is for data."""
    print(message, file=sys.stderr)


def check_output(path: Path) -> None:
    """Raise UserError, before any work is done, unless a file can be written at `path`."""
    if path.is_dir():
        raise UserError("this is a folder, not a file to write", str(path), f"Name a file in it: `{path / 'NAME'}`.")
    if not path.absolute().parent.is_dir():
        raise UserError("the folder to write to does not exist", str(path), f"Make it: `mkdir -p {path.parent}`.")


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], cut: bool = True) -> str:
    """Aligned columns; unless told not to, long cells are cut with an ellipsis so that a row stays on its line."""
    return _aligned(columns, [[_cell(value, MAX_CELL if cut else None) for value in row] for row in rows])[0]


def fitting_table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> tuple[str, int]:
    """A table with as many of the columns as the terminal has room for (all, where there is none), and how many these are."""
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    return _aligned(columns, [[_cell(value, MAX_CELL) for value in row] for row in rows], width)


def _aligned(columns: Sequence[str], texts: list[list[str]], width: int | None = None) -> tuple[str, int]:
    numeric = [bool(texts) and all(_is_number(row[i]) for row in texts if row[i]) for i in range(len(columns))]
    widths = [max([len(columns[i]), *(len(row[i]) for row in texts)]) for i in range(len(columns))]
    n_shown = len(columns)
    while width is not None and n_shown > 1 and sum(widths[:n_shown]) + len(INDENT) * n_shown > width:
        n_shown -= 1

    def line(cells: Sequence[str]) -> str:
        padded = [
            cell.rjust(width) if right else cell.ljust(width) for cell, width, right in zip(cells, widths, numeric, strict=True)
        ]
        return (INDENT + INDENT.join(padded[:n_shown])).rstrip()

    return "\n".join([line(columns), *(line(row) for row in texts)]), n_shown


def record(fields: dict[str, Any]) -> str:
    """One thing, a line for each of its fields, no wider than the terminal."""
    name_width = max((len(name) for name in fields), default=0)
    room = shutil.get_terminal_size((WIDTH, 24)).columns - name_width - 2 * len(INDENT)
    lines = [f"{INDENT}{name.ljust(name_width)}{INDENT}{_cell(value, max(room, MAX_CELL))}" for name, value in fields.items()]
    return "\n".join(line.rstrip() for line in lines)


def as_json(value: Any) -> str:
    """JSON for other programs; what JSON has no word for becomes a string, and a number that is none becomes null."""
    return json.dumps(_jsonable(value), indent=1, default=str, ensure_ascii=False, allow_nan=False)


def as_text(value: Any) -> str | None:
    """One value for a cell of CSV: whole, without thousands separators; lists and structs as JSON."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return str(_jsonable(value))
    if isinstance(value, bool | list | dict):
        return json.dumps(_jsonable(value), default=str, ensure_ascii=False)
    return str(value)


def _jsonable(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, dict):
        return {str(key): _jsonable(entry) for key, entry in value.items()}
    if isinstance(value, list) and value and all(isinstance(entry, tuple) and len(entry) == 2 for entry in value):
        return {str(key): _jsonable(entry) for key, entry in value}  # a map, as Arrow gives it
    if isinstance(value, list):
        return [_jsonable(entry) for entry in value]
    return value


def size(n_bytes: float) -> str:
    """Bytes for people: `1.9 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(n_bytes) < 1000:
            return f"{n_bytes:.0f} {unit}" if unit == "B" else f"{n_bytes:.1f} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:.1f} TB"


def _cell(value: Any, limit: int | None) -> str:
    if value is None:
        return ""
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    text = " ".join((as_text(value) or "").split())
    return text if limit is None or len(text) <= limit else text[: limit - 1] + "…"


def _is_number(text: str) -> bool:
    return text.replace(",", "").replace(".", "").replace("-", "").replace("e+", "").replace("e", "").isdigit()
