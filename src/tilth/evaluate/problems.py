"""A problem with one right answer, and files of such problems."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tilth.errors import SourceError
from tilth.evaluate.answers import canonical, extract

_FIX = 'Write each line as {"question": "...", "answer": "... #### 42"}; "id" may be given.'
_QUESTIONS, _ANSWERS = ("question", "problem"), ("answer", "solution")


@dataclass(frozen=True)
class Problem:
    """A question and its right answer as it is written, without the way to it ("1,000", not "... #### 1,000"); id is unique."""

    id: str
    question: str
    answer: str


def read_problems(path: Path) -> list[Problem]:
    """Problems from JSON lines, as GSM8K has them (question, answer) or MATH (problem, solution).

    The right answer is what `extract` finds in the answer, else the whole of it. Without an "id" the number of the line, from 1,
    is the id. Raises SourceError for a missing or empty file, a line that is no such object, and an id that comes twice.
    """
    path = Path(path)
    if not path.is_file():
        raise SourceError("there is no file of problems", str(path), "Correct the path.")
    problems = list(_problems(path))
    if not problems:
        raise SourceError("the file of problems has no line", str(path), _FIX)
    return problems


def without_reference(problems: Iterable[Problem]) -> list[Problem]:
    """The problems whose right answer cannot be parsed: nothing is ever right for them, so leave them out or say so."""
    return [problem for problem in problems if canonical(problem.answer) is None]


def read_solutions(path: Path, n: int) -> list[tuple[str, str]]:
    """The questions of the first n lines with their whole solutions, as examples. Raises SourceError as `read_problems` does."""
    read_problems(path)
    rows = [row for _, row in _rows(Path(path))][:n]
    return [(_first_of(row, _QUESTIONS), _first_of(row, reversed(_ANSWERS))) for row in rows]


def _problems(path: Path) -> Iterator[Problem]:
    seen: set[str] = set()
    for number, row in _rows(path):
        try:
            question, answer, name = _first_of(row, _QUESTIONS), _first_of(row, _ANSWERS), str(row.get("id", number))
        except (TypeError, AttributeError, StopIteration) as error:
            raise SourceError("a line of the problems has no question with its answer", f"{path}:{number}", _FIX) from error
        if name in seen:
            raise SourceError(f"two problems have the id `{name}`", f"{path}:{number}", "Give each its own id, or none at all.")
        seen.add(name)
        yield Problem(name, question, (extract(answer) or answer).strip())


def _rows(path: Path) -> Iterator[tuple[int, Any]]:
    """What each line that is not blank says, with its number. Lines end in a line feed: JSON may hold other ends of lines."""
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                try:
                    yield number, json.loads(line.decode("utf-8-sig"))
                except (ValueError, RecursionError) as error:  # the second for brackets within brackets
                    raise SourceError("a line of the problems is no JSON", f"{path}:{number}", _FIX) from error


def _first_of(row: Mapping[str, Any], names: Iterable[str]) -> str:
    """The first of these fields that says something; an answer may be a number. Raises TypeError for what is no text."""
    found = next(row[name] for name in names if row.get(name) not in (None, ""))
    if not isinstance(found, str | int | float):
        raise TypeError(f"{found!r} is no text")
    return str(found)
