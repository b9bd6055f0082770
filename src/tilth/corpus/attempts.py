"""Makes texts of inputs in the child process of `time_limit`: what takes too long, or too much memory, is refused alone."""

from __future__ import annotations

import importlib
import pickle
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

from tilth.corpus.records import Document, Reject
from tilth.corpus.time_limit import DiedError, Outcome, TooSlowError, calls_limited

MAX_SECONDS = 20.0  # of processor time for one document: ordinary ones take thousandths
# So many go to the child at a time: waking it costs as much as a short text.
BATCH_CHARS, BATCH_ROWS = 1 << 21, 1000


class Refused(NamedTuple):
    """An input that has no text; `reason` is a word for rejects/1."""

    reason: str
    detail: str


@dataclass(frozen=True)
class Pending:
    """A row that waits for its text: `finish` makes it of what the function returns for `arguments`."""

    location: str
    arguments: tuple[Any, ...]
    n_chars: int
    finish: Callable[[Any], Document | Reject]


def attempt(function: str, data: bytes, *arguments: Any, max_seconds: float) -> Any:
    """What `function` ("module:name") returns for `data` and arguments, or why it does not: too_slow, crashed, too_deep.

    `max_seconds` of processor time, with at most 1 GB of memory; 0 is no limit, and no process for it.
    """
    return _attempts(function, [(data, arguments)], max_seconds)[0]


def finished(rows: Iterable[Document | Reject | Pending], function: str, max_seconds: float) -> Iterator[Document | Reject]:
    """The rows in their order, those that are pending with what `function` returns for their arguments."""
    held: list[Document | Reject | Pending] = []
    n_chars = 0
    for row in rows:
        held.append(row)
        n_chars += row.n_chars if isinstance(row, Pending) else 0
        if n_chars >= BATCH_CHARS or len(held) >= BATCH_ROWS:
            yield from _finish(held, function, max_seconds)
            held, n_chars = [], 0
    yield from _finish(held, function, max_seconds)


def call(data: bytes, function: str) -> Any:
    """What a function returns for arguments that are pickled in `data`. Runs in the child."""
    return _named(function)(*pickle.loads(data))


def _finish(rows: list[Document | Reject | Pending], function: str, max_seconds: float) -> Iterator[Document | Reject]:
    given = [pickle.dumps(row.arguments, pickle.HIGHEST_PROTOCOL) for row in rows if isinstance(row, Pending)]
    answers = iter(_attempts(f"{__name__}:call", [(data, (function,)) for data in given], max_seconds))
    for row in rows:
        if isinstance(row, Pending):
            answer = next(answers)
            yield Reject(row.location, *answer) if isinstance(answer, Refused) else row.finish(answer)
        else:
            yield row


def _attempts(function: str, calls: list[tuple[bytes, tuple[Any, ...]]], max_seconds: float) -> list[Any]:
    if max_seconds > 0:
        return [_answer(outcome) for outcome in calls_limited(function, calls, max_seconds)]
    return [_answer(_outcome_here(function, *one)) for one in calls]


def _answer(outcome: Outcome) -> Any:
    match outcome.error:
        case TooSlowError() as error:
            return Refused("too_slow", f"its text took {error}")
        case DiedError() as error:
            return Refused("crashed", f"its text: {error}")
        case RecursionError():
            return Refused("too_deep", "nested deeper than Python goes")
    return outcome.get()


def _outcome_here(function: str, data: bytes, arguments: tuple[Any, ...]) -> Outcome:
    try:
        return Outcome(_named(function)(data, *arguments))
    except RecursionError as error:
        return Outcome(None, error)


@cache
def _named(function: str) -> Callable[..., Any]:
    module, _, name = function.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return found
