"""The difference between two texts as edits: spans in characters and what stands in their place."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from itertools import accumulate

MOST_LINES = 4_000  # beyond it a change is one span: comparing lines takes the square of their number


def text_edits(old: str, new: str) -> Iterator[tuple[int, int, str]]:
    """Spans of `old` (characters, end exclusive) and what stands in their place in `new`: in order, disjoint."""
    if old == new:
        return
    head = old.rfind("\n", 0, _common(old, new)) + 1
    n_tail = min(_common(old[::-1], new[::-1]), len(old) - head, len(new) - head)
    line_end = old.find("\n", len(old) - n_tail)
    n_tail = len(old) - line_end - 1 if line_end >= 0 else 0
    old_lines = old[head : len(old) - n_tail].splitlines(keepends=True)
    new_lines = new[head : len(new) - n_tail].splitlines(keepends=True)
    if max(len(old_lines), len(new_lines)) > MOST_LINES:
        yield head, len(old) - n_tail, new[head : len(new) - n_tail]
        return
    ends = [head, *(head + n for n in accumulate(map(len, old_lines)))]
    for kind, start, end, new_start, new_end in difflib.SequenceMatcher(None, old_lines, new_lines, autojunk=False).get_opcodes():
        if kind != "equal":
            yield _trimmed(old, ends[start], ends[end], "".join(new_lines[new_start:new_end]))


def _trimmed(old: str, start: int, end: int, replacement: str) -> tuple[int, int, str]:
    """The span without what its replacement begins and ends with alike."""
    replaced = old[start:end]
    n_head = _common(replaced, replacement)
    n_tail = min(_common(replaced[::-1], replacement[::-1]), len(replaced) - n_head, len(replacement) - n_head)
    return start + n_head, end - n_tail, replacement[n_head : len(replacement) - n_tail]


def _common(left: str, right: str) -> int:
    """Length of the common beginning."""
    low, high = 0, min(len(left), len(right))
    while low < high:
        middle = (low + high + 1) // 2
        if left[low:middle] == right[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
