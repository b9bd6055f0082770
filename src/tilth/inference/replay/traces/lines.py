"""What all formats share: lines that say their number when something is wrong with them, and checked values."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from tilth.errors import UserError

MAX_TOKENS = 1 << 24  # of one request; what is longer is a damaged line


class Line:
    """A line of a trace: its fields, and how to refuse it. `fields` maps names to values as the file has them."""

    def __init__(self, path: Path, number: int, fields: dict[str, Any]) -> None:
        self.path, self.number, self.fields = path, number, fields

    def refuse(self, problem: str) -> NoReturn:
        """Raise UserError with the line's number."""
        raise UserError(problem, f"{self.path}:{self.number}", "Mend or remove the line, or give another `--format`.")

    def number_of(self, name: str) -> float:
        """A number that is finite and not negative."""
        value = self._value(name)
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < 1e18:
            self.refuse(f"`{name}` is {_short(value)}, not a number of at least 0")
        return float(value)

    def count_of(self, name: str, minimum: int = 0) -> int:
        """An integer of at least minimum and at most MAX_TOKENS."""
        value = self._value(name)
        if not isinstance(value, int) or isinstance(value, bool) or not minimum <= value <= MAX_TOKENS:
            self.refuse(f"`{name}` is {_short(value)}, not a whole number from {minimum} to {MAX_TOKENS:,}")
        return value

    def integers_of(self, name: str) -> list[int]:
        """A list of integers that are not negative."""
        value = self._value(name)
        if not isinstance(value, list) or not all(type(entry) is int and entry >= 0 for entry in value):
            self.refuse(f"`{name}` is not a list of whole numbers of at least 0")
        return value

    def _value(self, name: str) -> Any:
        if name not in self.fields:
            self.refuse(f"there is no `{name}`; there is {', '.join(self.fields) or 'nothing'}")
        return self.fields[name]


def json_lines(path: Path) -> Iterator[Line]:
    """The objects of a file of JSON lines; empty lines are passed over."""
    with open(path, "rb") as file:
        for number, text in enumerate(file, start=1):
            if not text.strip():
                continue
            try:
                fields = json.loads(text)
            except (ValueError, RecursionError):
                Line(path, number, {}).refuse("the line is not JSON")
            if not isinstance(fields, dict):
                Line(path, number, {}).refuse("the line is not a JSON object")
            yield Line(path, number, fields)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:39]}…"
