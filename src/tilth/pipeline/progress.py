"""Says how far a long job is: a bar on a terminal, one line every ten seconds elsewhere. Always on stderr."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

SECONDS_BETWEEN_LINES = 10.0

Advance = Callable[[str], None]


@contextlib.contextmanager
def progress(title: str, total: int) -> Iterator[Advance]:
    """Yield a function to call with a few words after each of `total` pieces of work."""
    shown = _bar(title, total) if sys.stderr.isatty() else _lines(title, total)
    with shown as advance:
        yield advance


@contextlib.contextmanager
def _bar(title: str, total: int) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = [
        TextColumn("{task.description:<12}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[what]}"),
    ]
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=total, what="")
        yield lambda what: bar.update(task, advance=1, what=what)


@contextlib.contextmanager
def _lines(title: str, total: int) -> Iterator[Advance]:
    n_done, said, started = 0, time.monotonic(), time.monotonic()

    def advance(what: str) -> None:
        nonlocal n_done, said
        n_done += 1
        now = time.monotonic()
        if now - said >= SECONDS_BETWEEN_LINES:
            said = now
            left = (now - started) / n_done * (total - n_done)
            sys.stderr.write(f"{title}: {n_done} of {total}, {what}; about {left:.0f} s left\n")
            sys.stderr.flush()

    yield advance
