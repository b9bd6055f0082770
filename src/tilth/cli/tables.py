"""Tables for the terminal: as wide as they need to be, numbers to the right, nothing but text."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterable, Sequence
from typing import Any

MAX_CELL = 60


def say(message: str) -> None:
    """Talk goes to stderr; stdout is for data."""
    print(message, file=sys.stderr)


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], indent: str = "  ") -> str:
    """Aligned columns; long cells are cut with an ellipsis so that a row stays on its line."""
    texts = [[_cell(value) for value in row] for row in rows]
    numeric = [bool(texts) and all(_is_number(row[i]) for row in texts if row[i]) for i in range(len(columns))]
    widths = [max([len(columns[i]), *(len(row[i]) for row in texts)]) for i in range(len(columns))]

    def line(cells: Sequence[str]) -> str:
        padded = [
            cell.rjust(width) if right else cell.ljust(width) for cell, width, right in zip(cells, widths, numeric, strict=True)
        ]
        return (indent + "  ".join(padded)).rstrip()

    return "\n".join([line(columns), *(line(row) for row in texts)])


def record(fields: dict[str, Any]) -> str:
    """One thing, a line for each of its fields."""
    width = max((len(name) for name in fields), default=0)
    return "\n".join(
        f"  {name.ljust(width)}  {_cell(value, limit=shutil.get_terminal_size((120, 24)).columns)}"
        for name, value in fields.items()
    )


def as_json(value: Any) -> str:
    """JSON for other programs; what JSON has no word for becomes a string."""
    return json.dumps(value, indent=1, default=str, ensure_ascii=False)


def size(n_bytes: float) -> str:
    """Bytes for people: `1.9 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(n_bytes) < 1000:
            return f"{n_bytes:.0f} {unit}" if unit == "B" else f"{n_bytes:.1f} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:.1f} TB"


def _cell(value: Any, limit: int = MAX_CELL) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    text = " ".join((value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)).split())
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _is_number(text: str) -> bool:
    return text.replace(",", "").replace(".", "").replace("-", "").replace("e+", "").replace("e", "").isdigit()
