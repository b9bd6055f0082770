"""What a table says of repositories (stars, forks, ...): a row for each, found by the repository's origin or folder."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from tilth.corpus.optout.requests import repository_names
from tilth.errors import SourceError

KEY = "repository"
WHOLE_NUMBERS = ("stars", "forks")  # what rules and SQL cast; any other column is text, a number, a truth value or a date
OWN_META = ("snapshot_refs", "case_collision")  # names that a source of repositories gives
_SUFFIXES = (".csv", ".jsonl", ".ndjson", ".parquet")
_WHOLE = re.compile(r"\+?(\d+)(\.0*)?")  # tables with gaps often hold whole numbers as 5.0
_SHOWN = 3


@dataclass(frozen=True)
class RepositoryFacts:
    """Facts by the name of a repository, as text; what is not known has no key."""

    path: str
    rows: Mapping[str, Mapping[str, str]]

    def of(self, origin: str, folder: str) -> dict[str, str] | None:
        """The facts of the repository from `origin`, whose path below the source's folder is `folder`; None without a row.

        Raises SourceError where rows under several of its names differ in what they say.
        """
        names = [name for name in dict.fromkeys([*repository_names(origin), repository_names(folder)[0]]) if name in self.rows]
        if any(self.rows[name] != self.rows[names[0]] for name in names):
            what = f"two rows are about one repository: `{names[0]}` and `{names[1]}`"
            raise SourceError(what, self.path, "Leave one of them.")
        return dict(self.rows[names[0]]) if names else None


def read_facts(path: str) -> RepositoryFacts:
    """Read a table (CSV, JSON lines, Parquet) with a column `repository`: an origin in any spelling, `owner/name`, or a folder.

    Raises SourceError: not there or not readable, no such column, a repository twice, a value of another type than its column's.
    """
    place = Path(path).expanduser()
    rows: dict[str, dict[str, str]] = {}
    at: dict[str, int] = {}
    for number, record in _records(place):
        where = f"{place}, {'line' if place.suffix.lower() != '.parquet' else 'row'} {number}"
        name = _name(record, where)
        if name in rows:
            raise SourceError(f"`{record[KEY]}` has a row already: {at[name]}", where, "Leave one of them.")
        at[name], rows[name] = number, _facts(record, where)
    if not rows:
        raise SourceError("the table of repositories has no rows", str(place), "Give it a row for each repository.")
    return RepositoryFacts(str(place), rows)


def refuse_missing(missing: Sequence[str], path: str) -> None:
    """Raise SourceError if a repository has no row."""
    if missing:
        shown = ", ".join(f"`{name}`" for name in missing[:_SHOWN]) + (" ..." if len(missing) > _SHOWN else "")
        what = f"{len(missing)} of the repositories have no row in the table: {shown}"
        raise SourceError(what, path, "Add a row for each, and leave empty what is not known.")


def _name(record: Mapping[str, Any], where: str) -> str:
    if KEY not in record:
        fix = f"Name it so: an origin, `owner/name` or a folder. There is {', '.join(map(str, record)) or 'nothing'}."
        raise SourceError(f"the table of repositories has no column `{KEY}`", where, fix)
    value = record[KEY]
    if not isinstance(value, str) or not value.strip():
        raise SourceError(f"`{KEY}` is {_said(value)}", where, "Give an origin, `owner/name` or a folder.")
    return repository_names(value)[0]


def _facts(record: Mapping[str, Any], where: str) -> dict[str, str]:
    facts = {}
    for column, value in record.items():
        if column == KEY:
            continue
        if not isinstance(column, str) or not column or column in OWN_META:
            what = f"a column of the table is named `{column}`" if column else "a row of the table is longer than its head"
            raise SourceError(what, where, "Give each column a name of its own.")
        text = _whole(column, value, where) if column in WHOLE_NUMBERS else _text(column, value, where)
        if text is not None:
            facts[column] = text
    return facts


def _whole(column: str, value: Any, where: str) -> str | None:
    text = _text(column, value, where)
    found = None if text is None or isinstance(value, bool) else _WHOLE.fullmatch(text)
    if text is not None and found is None:
        raise SourceError(f"`{column}` is {_said(value)}", where, "Give a whole number, or nothing where it is not known.")
    return None if found is None else str(int(found[1]))


def _text(column: str, value: Any, where: str) -> str | None:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, date):  # of which a datetime is one
        return value.isoformat()
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if not isinstance(value, str | int | float):
        raise SourceError(f"`{column}` is {_said(value)}", where, "Give text, a number, a truth value or a date.")
    return str(value).strip() or None


def _said(value: Any) -> str:
    return f"{value!r:.60}, not of its type" if value not in (None, "") else "empty"


def _records(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """The rows with their line, from 1 as the head of a CSV file is line 1; of Parquet the number of the row."""
    if path.suffix.lower() not in _SUFFIXES:
        raise SourceError("this is no kind of table of repositories", str(path), f"Give one of {', '.join(_SUFFIXES)}.")
    try:
        if path.suffix.lower() == ".parquet":
            import pyarrow.parquet as pq

            yield from enumerate(pq.ParquetFile(path).read().to_pylist(), 1)
            return
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield from _of_csv(file) if path.suffix.lower() == ".csv" else _of_lines(file, path)
    except (OSError, ValueError, csv.Error) as error:
        raise SourceError(
            f"the table of repositories cannot be read: {error}", str(path), "Is it whole, and in UTF-8?"
        ) from error


def _of_csv(lines: Iterable[str]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    reader = csv.DictReader(lines, strict=True)
    for record in reader:
        yield reader.line_num, record


def _of_lines(lines: Iterable[str], path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for number, line in enumerate(lines, 1):
        record = json.loads(line) if line.strip() else {}
        if not isinstance(record, dict):
            raise SourceError("this line is no object", f"{path}, line {number}", 'One a line: {"repository": ..., "stars": 5}.')
        if record:
            yield number, record
