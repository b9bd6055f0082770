"""From bytes of an edited text back to bytes of the text as it was read."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from tilth.errors import ContractError

TEXT, EDITED, SYNTHETIC = "text", "edited", "synthetic"


class Segments(NamedTuple):
    """An edited text as parts that were kept and parts that edits put there (of no bytes, where a span was only cut)."""

    starts: np.ndarray  # (n,) int64, UTF-8 bytes of the edited text, as `ends`; ascending
    ends: np.ndarray
    source_starts: np.ndarray  # (n,) int64, UTF-8 bytes of the text as it was read
    source_ends: np.ndarray
    is_kept: np.ndarray  # (n,) bool


class Range(NamedTuple):
    """Consecutive tokens, by their places among those that were asked for, and the bytes that they come from."""

    first: int
    stop: int
    kind: str  # text: byte for byte the source's; edited: tokens that touch an edit
    start: int  # UTF-8 bytes of the edited text
    end: int
    source_start: int
    source_end: int


def segments_of(text: str, edits: Iterable[tuple[int, int, str]]) -> Segments:
    """What `edits` (start and end in characters, replacement; in order, without overlaps) keep of `text` and put into it.

    Raises ContractError for edits that do not fit.
    """
    rows: list[tuple[int, int, int, int, bool]] = []
    done = at = source = 0

    def add(n_bytes: int, n_source: int, is_kept: bool) -> None:
        nonlocal at, source
        rows.append((at, at + n_bytes, source, source + n_source, is_kept))
        at, source = at + n_bytes, source + n_source

    for start, end, replacement in edits:
        if not done <= start <= end <= len(text):
            raise ContractError(f"an edit from {start} to {end} does not fit", where=text[:40])
        if start > done:
            kept = len(text[done:start].encode())
            add(kept, kept, True)
        add(len(replacement.encode()), len(text[start:end].encode()), False)
        done = end
    kept = len(text[done:].encode())
    add(kept, kept, True)
    columns = [np.array(column, np.int64) for column in zip(*rows, strict=True)]
    return Segments(columns[0], columns[1], columns[2], columns[3], columns[4].astype(bool))


def source_ranges(start: int, n_bytes: np.ndarray, segments: Segments | None) -> list[Range]:
    """The ranges of tokens of `n_bytes` (n,) each that begin at byte `start` of a text; without segments it was not edited."""
    if not len(n_bytes):
        return []
    ends = start + np.cumsum(n_bytes)
    starts = ends - n_bytes
    if segments is None:
        return [Range(0, len(n_bytes), TEXT, start, int(ends[-1]), start, int(ends[-1]))]
    # A cut span has no bytes of its own: only a token with bytes from both sides of it touches that edit.
    first = np.searchsorted(segments.ends, starts, side="right")
    last = np.searchsorted(segments.starts, ends, side="left") - 1
    groups = np.where((first == last) & segments.is_kept[np.minimum(first, len(segments.ends) - 1)], first, -1)
    bounds = [0, *(np.flatnonzero(groups[1:] != groups[:-1]) + 1).tolist(), len(groups)]
    found = []
    for begin, stop in pairwise(bounds):
        a, b = int(starts[begin]), int(ends[stop - 1])
        i, j = int(first[begin]), int(last[stop - 1])
        at = int(segments.source_starts[i]) + (a - int(segments.starts[i]) if segments.is_kept[i] else 0)
        to = int(segments.source_starts[j]) + b - int(segments.starts[j]) if segments.is_kept[j] else int(segments.source_ends[j])
        found.append(Range(begin, stop, TEXT if groups[begin] >= 0 else EDITED, a, b, at, to))
    return found
