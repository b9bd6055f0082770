"""Sorts more records than memory holds: sorted runs go to a temporary file each and are merged."""

from __future__ import annotations

import heapq
import struct
import tempfile
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import BinaryIO

HEAD = struct.Struct(">QQQI")
Key = tuple[int, int, int]
Record = tuple[Key, bytes]
RECORD_BYTES = 200  # what a record takes in memory besides its payload


class ExternalSort:
    """Add (key, payload) records, then iterate over them in the order of their keys; equal keys keep their order.

    Keys are three numbers from 0 to 2**64 - 1. Holds about `memory_bytes`; beyond that it writes to files in the folder
    for temporary files, at most `max_runs` at a time, which vanish with the process.
    """

    def __init__(self, memory_bytes: int = 128 << 20, max_runs: int = 100) -> None:
        self._memory_bytes, self._max_runs = memory_bytes, max_runs
        self._held: list[Record] = []
        self._n_bytes = 0
        self._runs: list[BinaryIO] = []

    def __enter__(self) -> ExternalSort:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for run in self._runs:
            run.close()

    def add(self, key: Key, payload: bytes) -> None:
        """Take in a record. Raises OSError if the folder for temporary files is full."""
        self._held.append((key, payload))
        self._n_bytes += len(payload) + RECORD_BYTES
        if self._n_bytes > self._memory_bytes:
            if len(self._runs) == self._max_runs:
                merged = _write(heapq.merge(*map(_read, self._runs), key=_key))
                for run in self._runs:
                    run.close()
                self._runs = [merged]
            self._runs.append(_write(sorted(self._held, key=_key)))
            self._held, self._n_bytes = [], 0

    def __iter__(self) -> Iterator[Record]:
        self._held.sort(key=_key)
        if not self._runs:
            return iter(self._held)
        return heapq.merge(*map(_read, self._runs), self._held, key=_key)


def _key(record: Record) -> Key:
    return record[0]


def _write(records: Iterable[Record]) -> BinaryIO:
    run: BinaryIO = tempfile.TemporaryFile(buffering=1 << 18)  # type: ignore[assignment]  # noqa: SIM115
    for key, payload in records:
        run.write(HEAD.pack(*key, len(payload)) + payload)
    return run


def _read(run: BinaryIO) -> Iterator[Record]:
    run.seek(0)
    while head := run.read(HEAD.size):
        *key, length = HEAD.unpack(head)
        yield (key[0], key[1], key[2]), run.read(length)
