"""DuckDB's errors as Tilth's: what is wrong, at which line and column, and the nearest known word."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import duckdb

from tilth.errors import QueryError, StoreError, TilthError, did_you_mean

_PLACE = re.compile(r"\n+LINE (?P<line>\d+): (?P<text>.*)\n(?P<caret> *\^)", re.DOTALL)
_UNKNOWN = re.compile(r"(?:table with name|column|table) \"?(?P<word>[^\s\"]+)\"? (?:does not exist|not found)", re.IGNORECASE)
_SUGGESTED = re.compile(r"Did you mean \"(?P<word>[^\"]+)\"")
_CANDIDATES = re.compile(r"Candidate (?:bindings|tables): (?P<list>.*)")
_MAX_CHARS = 200
_TRY_CAST = "`try_cast(x as int)` gives null where a text is not a number; a comparison wants both sides of one type."
_LOOK = '`tilth sql "describe CORPUS"` lists the columns of a corpus, `tilth sql "show all tables"` what else there is.'


def complain(
    error: duckdb.Error, *, known: Iterable[str] = (), first_line: int = 1, store_root: Path | None = None
) -> TilthError:
    """Turn what DuckDB raised for a user's SQL into an error of three lines.

    `known` are names to suggest; `first_line` is the line of the full statement at which the user's text
    begins; a file of `store_root` that is not there is the store's fault and gives a StoreError.
    """
    message = re.sub(r"^[A-Za-z ]+ Error: ", "", str(error))
    if store_root is not None and str(store_root) in _without_escapes(message):
        return _damaged(message)
    if isinstance(error, duckdb.OutOfMemoryException):
        return QueryError(
            "the query needs more memory or disk than there is", where=_shorten(message), fix="Select fewer columns or rows."
        )
    place = _PLACE.search(message)
    what = _shorten(message[: place.start()] if place else message)
    if isinstance(error, duckdb.ConversionException):
        return QueryError(what, where=_where(place, first_line), fix=_TRY_CAST)
    return QueryError(what, where=_where(place, first_line), fix=_fix(message, known))


@contextlib.contextmanager
def reading_store() -> Iterator[None]:
    """Around statements that Tilth itself wrote: what DuckDB raises there is a file that is missing or damaged."""
    try:
        yield
    except duckdb.Error as error:
        raise _damaged(str(error)) from error


def _damaged(message: str) -> StoreError:
    first = _without_escapes(message.strip().splitlines()[0])
    return StoreError(
        "a file of the store is missing or damaged",
        where=first,
        fix="Remove its folder and build again: it makes only what is missing.",
    )


def _without_escapes(message: str) -> str:
    return re.sub(r"\[([\[*?])\]", r"\1", message)


def _where(place: re.Match[str] | None, first_line: int) -> str | None:
    if place is None:
        return None
    # DuckDB's caret counts from the start of "LINE n: ", and long lines are cut to "...".
    column = len(place["caret"]) - len(f"LINE {place['line']}: ")
    near = place["text"][max(column - 1, 0) :].split("\n")[0][:40]
    at = f", column {column}" if not place["text"].startswith("...") else ""
    return f"line {int(place['line']) - first_line + 1}{at}: {near}"


def _fix(message: str, known: Iterable[str]) -> str:
    names = set(known)
    candidates = _CANDIDATES.search(message)
    if candidates:
        names |= set(re.findall(r"\"([^\"]+)\"", candidates["list"]))
    unknown, suggested, place = _UNKNOWN.search(message), _SUGGESTED.search(message), _PLACE.search(message)
    if unknown:
        word = unknown["word"].split(".")[-1]
        near = did_you_mean(word, names)
        if near.startswith("Did you mean"):
            return near
        if place and f'"{word}"' in place["text"]:
            return f"Text stands in single quotes: '{word}'. Double quotes hold the name of a column."
    if suggested:
        return f"Did you mean `{suggested['word']}`?"
    return _LOOK


def _shorten(message: str) -> str:
    lines = [line.strip() for line in message.strip().splitlines() if line.strip()]
    # DuckDB says the essential in its first line; what follows are candidates and advice.
    first = lines[0].rstrip("!") if lines else "the query failed"
    return first if len(first) <= _MAX_CHARS else first[: _MAX_CHARS - 3] + "..."
