"""Edits of an edited text, as edits of the text as it was read: so that one table says what became of a document."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from tilth.corpus.edits import edited


class Change(NamedTuple):
    """A span of a text (characters, end exclusive), what stands in its place, and why."""

    start: int
    end: int
    replacement: str
    reason: str


class _Placed(NamedTuple):
    """A change by its span in the text between the two edits; `is_later` for one of the second."""

    start: int
    end: int
    is_later: bool
    change: Change


def compose(text: str, first: Sequence[Change], second: Sequence[Change]) -> list[Change]:
    """What turns `text` into what `second` makes of what `first` makes of it.

    Each is ascending and disjoint, and so is the result. Changes of both that touch become one, for both reasons.
    """
    between = edited(text, [change[:3] for change in first])
    found: list[Change] = []
    shift = 0  # from a place in the text to the same place in `between`
    for group in _groups(first, second):
        own = [placed for placed in group if not placed.is_later]
        after = shift + sum(len(placed.change.replacement) - (placed.change.end - placed.change.start) for placed in own)
        if len(own) == len(group):
            found += [placed.change for placed in own]
        else:
            start, end = group[0].start, max(placed.end for placed in group)
            later = [(placed.start - start, placed.end - start, placed.change.replacement) for placed in group if placed.is_later]
            reasons = dict.fromkeys(part for placed in group for part in placed.change.reason.split("_and_"))
            replacement = edited(between[start:end], later)
            found.append(Change(start - shift, end - after, replacement, "_and_".join(reasons)))
        shift = after
    return found


def _groups(first: Sequence[Change], second: Sequence[Change]) -> Iterator[list[_Placed]]:
    """Runs of changes that touch each other in the text between."""
    placed, shift = [_Placed(change.start, change.end, True, change) for change in second], 0
    for change in first:
        start = change.start + shift
        placed.append(_Placed(start, start + len(change.replacement), False, change))
        shift += len(change.replacement) - (change.end - change.start)
    group: list[_Placed] = []
    reached = 0
    for one in sorted(placed, key=lambda one: one[:3]):
        if group and one.start > reached:
            yield group
            group = []
        reached = max(reached, one.end) if group else one.end
        group.append(one)
    if group:
        yield group
