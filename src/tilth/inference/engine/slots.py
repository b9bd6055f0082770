"""Which slots of the pool are free: runs of neighbours, so that a text lies in one piece wherever it can."""

from __future__ import annotations

from bisect import bisect_left

import numpy as np
from numpy.typing import NDArray

Slots = NDArray[np.int32]
ROOM = 64
"""Slots left free before a new run, into which the text in front of it may grow."""


class SlotRuns:
    """The free slots of 0 .. n_slots - 1, as disjoint runs that never touch."""

    def __init__(self, n_slots: int) -> None:
        self.n_slots = self.n_free = n_slots
        self._starts = [0] if n_slots else []
        self._ends = [n_slots] if n_slots else []

    def grow(self, n_slots: int) -> None:
        """Add the slots up to n_slots."""
        if n_slots > self.n_slots:
            self._add(self.n_slots, n_slots)
            self.n_slots = n_slots

    @property
    def n_in_use(self) -> int:
        """Slots up to the last that is taken."""
        return self._starts[-1] if self._ends and self._ends[-1] == self.n_slots else self.n_slots

    def shrink(self, n_slots: int) -> None:
        """Drop the slots from n_slots on, which are free. Raises ValueError where one is taken."""
        if n_slots < self.n_in_use:
            raise ValueError(f"slot {self.n_in_use - 1} is taken, and {n_slots} slots are to be left")
        if n_slots == self.n_slots:
            return
        self.n_free -= self.n_slots - n_slots
        self.n_slots = self._ends[-1] = n_slots
        if self._starts[-1] == n_slots:
            del self._starts[-1], self._ends[-1]

    def take(self, n_slots: int, after: int = -2) -> Slots:
        """n_slots free ones: those that follow the slot `after` while there are any, then the longest runs.

        Raises ValueError if fewer are free.
        """
        if n_slots > self.n_free:
            raise ValueError(f"{n_slots} slots are asked for, and {self.n_free} are free")
        runs, missing = [], n_slots
        place = bisect_left(self._starts, after + 1)
        if place < len(self._starts) and self._starts[place] == after + 1:
            runs.append(self._cut(place, 0, missing))
            missing -= len(runs[0])
        while missing:
            place = max(range(len(self._starts)), key=lambda i: self._ends[i] - self._starts[i])
            spare = self._ends[place] - self._starts[place] - missing
            runs.append(self._cut(place, max(0, min(ROOM, spare)), missing))
            missing -= len(runs[-1])
        return np.concatenate([np.arange(run.start, run.stop, dtype=np.int32) for run in runs]) if runs else _NONE

    def free(self, slots: Slots) -> None:
        """Give slots back, in any order. Raises ValueError for one that is free, or that there is not."""
        if not len(slots):
            return
        ordered = np.sort(slots)
        breaks = np.flatnonzero(np.diff(ordered) != 1) + 1
        for run in np.split(ordered, breaks):
            self._add(int(run[0]), int(run[-1]) + 1)

    def _cut(self, place: int, skipped: int, most: int) -> range:
        """Take up to `most` slots out of a run, after its first `skipped` ones."""
        start, end = self._starts[place], self._ends[place]
        first = start + skipped
        last = min(end, first + most)
        left = [(s, e) for s, e in ((start, first), (last, end)) if s < e]
        self._starts[place : place + 1] = [s for s, _ in left]
        self._ends[place : place + 1] = [e for _, e in left]
        self.n_free -= last - first
        return range(first, last)

    def _add(self, start: int, end: int) -> None:
        place = bisect_left(self._starts, start)
        overlaps = (place and self._ends[place - 1] > start) or (place < len(self._starts) and self._starts[place] < end)
        if overlaps or start < 0:
            raise ValueError(f"slots {start} to {end - 1} are free already, or there are none such")
        self.n_free += end - start
        low, high = place, place
        if place and self._ends[place - 1] == start:
            low, start = place - 1, self._starts[place - 1]
        if place < len(self._starts) and self._starts[place] == end:
            high, end = place + 1, self._ends[place]
        self._starts[low:high], self._ends[low:high] = [start], [end]


_NONE: Slots = np.empty(0, dtype=np.int32)
