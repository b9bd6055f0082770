"""Sorted runs read together, block by block: every hash comes once, with all the rows that any run has of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeAlias

import numpy as np
import pyarrow as pa

from tilth.errors import ContractError

Batches: TypeAlias = pa.Table | Iterable[pa.RecordBatch]


def batches_of(data: Batches) -> Iterable[pa.RecordBatch]:
    """The batches of a table, or those that are given."""
    return data.to_batches() if isinstance(data, pa.Table) else data


def merged_runs(runs: Sequence[Batches], row_bytes: int, max_bytes: int) -> Iterator[pa.Table]:
    """Tables whose ranges of `hash` follow on each other; a table holds all rows of its range, run after run.

    Each run ascends by `hash` (uint64, may repeat) and is read once. Memory: `max_bytes` for rows of `row_bytes` each,
    more only where one hash fills more than its share. Raises ContractError for a run that does not ascend.
    """
    block = max(1, max_bytes // (row_bytes * max(1, len(runs))))
    cursors = [cursor for run in runs if (cursor := _Cursor(run, block)).advance()]
    while cursors:
        limit = min(cursor.complete for cursor in cursors)
        yield pa.Table.from_batches([part for cursor in cursors for part in cursor.take(limit)])
        cursors = [cursor for cursor in cursors if cursor.advance()]


class _Cursor:
    """Where a merge stands in one run: rows that were read and not yet taken, in which all up to `complete` are whole."""

    def __init__(self, run: Batches, block: int) -> None:
        self._pieces = (
            batch.slice(at, block) for batch in batches_of(run) for at in range(0, batch.num_rows, block)
        )  # fmt: skip
        self._rest: list[pa.RecordBatch] = []
        self._next = next(self._pieces, None)
        self._before = -1
        self.complete = -1

    def advance(self) -> bool:
        """Read on until some hash is known to be whole; False at the end of the run."""
        while not self._rest or not self._is_whole():
            if self._next is None:
                return bool(self._rest)
            hashes = self._next.column("hash").to_numpy()
            if int(hashes[0]) < self._before or (hashes[1:] < hashes[:-1]).any():
                raise ContractError("a sorted run does not ascend", f"after {self._before}", "Make it again.")
            self._before = int(hashes[-1])
            self._rest.append(self._next)
            self._next = next(self._pieces, None)
        return True

    def _is_whole(self) -> bool:
        """Whether a hash is whole: any but the last that was read, which may go on."""
        first = int(self._rest[0].column("hash")[0].as_py())
        if self._next is None:
            self.complete = self._before
        elif first < self._before:
            last = self._rest[-1].column("hash").to_numpy()
            whole = int(np.searchsorted(last, np.uint64(self._before), side="left"))
            self.complete = int(last[whole - 1]) if whole else int(self._rest[-2].column("hash")[-1].as_py())
        return self._next is None or first < self._before

    def take(self, limit: int) -> list[pa.RecordBatch]:
        """The rows up to the hash `limit`."""
        taken, rest = [], []
        for batch in self._rest:
            count = int(np.searchsorted(batch.column("hash").to_numpy(), np.uint64(limit), side="right"))
            taken.append(batch.slice(0, count))
            if count < batch.num_rows:
                rest.append(batch.slice(count))
        self._rest = rest
        return taken
