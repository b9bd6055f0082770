"""Line-level deduplication over groups of shards, as CCNet does it (arXiv:1911.00359), in three stages and bounded memory.

1. `line_run`: one shard's distinct line hashes, ascending, with the first place and the number of copies of each.
2. `merge_runs` and `repeated_lines`: sorted runs merged block by block; which lines of the group occur twice or more.
3. `line_edits`: the spans to cut from each document of one shard. Cut texts equal the kept lines joined by `\\n`.

The unit can be the paragraph instead (paragraphs.py): everything here holds for it, with "paragraph" for "line".

Merging is associative and "first" means first by (shard, row, line), so the result does not depend on the order of runs,
on how they were merged, or on the number of workers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal, NamedTuple, TypeAlias, TypeVar, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from numba import njit

from tilth.contracts import EDITS, check
from tilth.dedup.passages.first_copies import Repeated, with_first_copies
from tilth.dedup.passages.line_hashes import EMPTY_LINE, Hashes, Ints, Lines, hash_lines
from tilth.dedup.passages.paragraphs import hash_paragraphs
from tilth.errors import ContractError, RecipeError

Mode = Literal["remove_all_copies", "keep_first"]
Unit = Literal["line", "paragraph"]
Batches: TypeAlias = pa.Table | Iterable[pa.RecordBatch]
Places = npt.NDArray[np.int64]
Kinds = npt.NDArray[np.int8]
Found = TypeVar("Found")

LINE_RUN = pa.schema(
    [
        pa.field("hash", pa.uint64(), nullable=False),
        pa.field("shard", pa.string(), nullable=False),  # of the first copy, and so row and line
        pa.field("row", pa.int32(), nullable=False),
        pa.field("line", pa.int32(), nullable=False),
        pa.field("n_copies", pa.int64(), nullable=False),
    ],
    metadata={"tilth.contract": "line_run/1"},
)
_REPEATED, _EMPTY = 1, 2
_HASHES: dict[Unit, Callable[[pa.Array], Lines]] = {"line": hash_lines, "paragraph": hash_paragraphs}
_BYTES_A_ROW = 160  # of a run while it is merged: the columns, their concatenation and its order


class ShardLines(NamedTuple):
    """All lines of one shard in order of (row, line)."""

    shard: str
    rows: Ints  # of each document
    n_lines: Ints  # of each document
    hashes: Hashes  # of each line
    n_chars: Ints  # of each line

    def places(self, lines: Places) -> tuple[Ints, Ints]:
        """Row and number within its document of each of `lines`."""
        ends = np.cumsum(self.n_lines, dtype=np.int64)
        documents = np.searchsorted(ends, lines, side="right")
        return self.rows[documents], (lines - (ends - self.n_lines)[documents]).astype(np.int32)


def line_run(documents: Batches, unit: Unit = "line") -> pa.Table:
    """Stage 1: the distinct lines of one shard as a sorted run (LINE_RUN).

    `documents` has the columns shard, row (ascending) and text; more are ignored. Memory: about 40 bytes a line.
    Raises ContractError for documents of several shards or out of order, RecipeError for another unit.
    """
    return sorted_run(_shard_lines(documents, unit))


def sorted_run(lines: ShardLines) -> pa.Table:
    """The distinct hashes of one shard as a sorted run (LINE_RUN)."""
    order = np.argsort(lines.hashes, kind="stable")
    ascending = lines.hashes[order]
    starts = np.flatnonzero(np.concatenate(([True], ascending[1:] != ascending[:-1]))) if len(order) else order
    rows, numbers = lines.places(order[starts])
    columns = [
        pa.array(ascending[starts]),
        pa.array([lines.shard], pa.string()).take(pa.array(np.zeros(len(starts), np.int32))),
        pa.array(rows),
        pa.array(numbers),
        pa.array(np.diff(np.append(starts, len(order))).astype(np.int64)),
    ]
    return pa.Table.from_arrays(columns, schema=LINE_RUN)


def merge_runs(runs: Sequence[Batches], max_bytes: int = 256 << 20) -> Iterator[pa.RecordBatch]:
    """Stage 2: merge sorted runs into one, given out as batches. A merged run can be merged again with others.

    Reads each run once, a batch at a time; larger batches than fit `max_bytes` together are cut when they come, so the
    reader bounds what a batch takes. Raises ContractError for a run that is not strictly ascending.
    """
    block = max(1, max_bytes // (_BYTES_A_ROW * max(1, len(runs))))
    cursors = [cursor for run in runs if (cursor := _Cursor(run, block)).advance()]
    while cursors:
        limit = min(cursor.last for cursor in cursors)
        parts = [cursor.take(limit) for cursor in cursors]
        yield _combine(pa.Table.from_batches([part for part in parts if part.num_rows], schema=LINE_RUN))
        cursors = [cursor for cursor in cursors if cursor.advance()]


def repeated_lines(runs: Sequence[Batches], max_bytes: int = 256 << 20) -> Iterator[pa.RecordBatch]:
    """Stage 2 to its end: the lines of a group of runs that occur at least twice, ascending by hash (LINE_RUN)."""
    for batch in merge_runs(runs, max_bytes):
        kept = batch.filter(pc.greater_equal(batch.column("n_copies"), 2))
        if kept.num_rows:
            yield kept


def line_edits(
    documents: Batches, repeated: Batches, mode: Mode = "remove_all_copies", keep_empty: bool = False, unit: Unit = "line"
) -> pa.Table:
    """Stage 3: what to cut from the documents of one shard (edits/1), ascending, given the repeated lines of its group.

    `remove_all_copies` cuts every copy, as CCNet does; `keep_first` all but the first of the group. Lines that are
    empty in normal form go too unless `keep_empty`, when they all stay. Neighbouring lines that go for the same reason
    make one span. A document of which nothing stays is cut from 0 to its length; an empty text has no edit.
    Memory: about 25 bytes a line. Raises ContractError where `repeated` is not ascending, RecipeError for another mode or unit.
    """
    return _cut_lines(documents, repeated, mode, keep_empty, unit)[0]


def line_cuts(documents: Batches, repeated: Repeated, mode: Mode = "keep_first", unit: Unit = "line") -> pa.Table:
    """As `line_edits`, which keeps empty lines, with the columns of FIRST_COPIES: of the first line of each cut."""
    edits, lines, firsts = _cut_lines(documents, repeated(), mode, True, unit)
    return with_first_copies(edits, lines.hashes[firsts], np.ones(len(firsts), np.bool_), repeated, "line")


def _cut_lines(
    documents: Batches, repeated: Batches, mode: Mode, keep_empty: bool, unit: Unit
) -> tuple[pa.Table, ShardLines, Places]:
    """The edits, the lines of the shard, and the line that each edit begins with."""
    if mode not in get_args(Mode):
        raise RecipeError(f"`{mode}` is no mode of line deduplication", fix=f"use one of {', '.join(get_args(Mode))}")
    lines = _shard_lines(documents, unit)
    reasons = repeated_flags(lines, repeated, keep_first=mode == "keep_first")
    reasons[lines.hashes == np.uint64(EMPTY_LINE)] = 0 if keep_empty else _EMPTY
    documents_cut, starts, ends, kinds, firsts = _spans(lines.n_lines, lines.n_chars, reasons)
    return cuts(lines, documents_cut, starts, ends, kinds, ("", f"repeated_{unit}", f"empty_{unit}")), lines, firsts


def cuts(lines: ShardLines, documents: Places, starts: Places, ends: Places, kinds: Kinds, reasons: Sequence[str]) -> pa.Table:
    """edits/1: spans to cut from documents of a shard (by their number in it), each for the reason of its kind."""
    columns = [
        pa.array([lines.shard], pa.string()).take(pa.array(np.zeros(len(starts), np.int32))),
        pa.array(lines.rows[documents]),
        pa.array(starts),
        pa.array(ends),
        pa.array([""], pa.string()).take(pa.array(np.zeros(len(starts), np.int32))),
        pa.array(reasons, pa.string()).take(pa.array(kinds)),
    ]
    edits = pa.Table.from_arrays(columns, schema=EDITS.schema)
    check(edits, EDITS)
    return edits


def _batches(data: Batches) -> Iterable[pa.RecordBatch]:
    return data.to_batches() if isinstance(data, pa.Table) else data


def _shard_lines(documents: Batches, unit: Unit) -> ShardLines:
    if unit not in _HASHES:
        raise RecipeError(f"`{unit}` is no unit of line deduplication", fix=f"use one of {', '.join(_HASHES)}")
    hashed = _HASHES[unit]
    shard, rows, parts = of_shard(documents, hashed)
    none = (np.zeros(0, np.uint64), np.zeros(0, np.int32), np.zeros(0, np.int32))
    hashes, n_chars, n_lines = (np.concatenate(column) for column in zip(*parts, none))
    return ShardLines(shard, rows, n_lines, hashes, n_chars)


def of_shard(documents: Batches, hashed: Callable[[pa.Array], Found]) -> tuple[str, Ints, list[Found]]:
    """Name and rows of one shard, and what `hashed` finds in the texts of each batch."""
    names: set[str] = set()
    rows, parts = [np.zeros(0, np.int32)], []
    for batch in _batches(documents):
        names.update(pc.unique(batch.column("shard")).to_pylist())
        rows.append(batch.column("row").to_numpy(zero_copy_only=False).astype(np.int32))
        parts.append(hashed(batch.column("text")))
    if len(names) > 1:
        raise ContractError(f"lines are hashed shard by shard, and these are {len(names)}", where=", ".join(sorted(names)[:3]))
    shard, all_rows = next(iter(names), ""), np.concatenate(rows)
    if (np.diff(all_rows) <= 0).any():
        raise ContractError("rows of a shard must ascend", where=shard)
    return shard, all_rows, parts


class _Cursor:
    """Where a merge stands in one run: the rows that were read and not yet taken."""

    def __init__(self, run: Batches, block: int) -> None:
        self._pieces = (batch.slice(at, block) for batch in _batches(run) for at in range(0, batch.num_rows, block))
        self._rest: pa.RecordBatch | None = None
        self._hashes: Hashes = np.zeros(0, np.uint64)
        self.last = -1

    def advance(self) -> bool:
        """Read on if everything was taken; False at the end of the run."""
        if len(self._hashes):
            return True
        before, piece = self.last, next(self._pieces, None)
        if piece is None:
            return False
        self._rest, self._hashes = piece, piece.column("hash").to_numpy()
        if int(self._hashes[0]) <= before or (self._hashes[1:] <= self._hashes[:-1]).any():
            raise ContractError("a run of line hashes does not ascend", where=f"after {before}", fix="make it with `line_run`")
        self.last = int(self._hashes[-1])
        return True

    def take(self, limit: int) -> pa.RecordBatch:
        """The rows up to the hash `limit`."""
        assert self._rest is not None
        count = int(np.searchsorted(self._hashes, np.uint64(limit), side="right"))
        taken = self._rest.slice(0, count)
        self._rest, self._hashes = self._rest.slice(count), self._hashes[count:]
        return taken


def _combine(rows: pa.Table) -> pa.RecordBatch:
    """One row for each hash: its first place, its copies together."""
    hashes, row, line, n_copies = (rows.column(name).to_numpy() for name in ("hash", "row", "line", "n_copies"))
    encoded = pc.dictionary_encode(rows.column("shard")).combine_chunks()
    encoded = encoded.chunk(0) if isinstance(encoded, pa.ChunkedArray) else encoded
    names = encoded.dictionary.to_pylist()
    ranks = np.empty(len(names), np.int64)
    ranks[sorted(range(len(names)), key=names.__getitem__)] = np.arange(len(names))
    order = np.lexsort((line, row, ranks[np.asarray(encoded.indices)], hashes))
    ascending = hashes[order]
    starts = np.flatnonzero(np.concatenate(([True], ascending[1:] != ascending[:-1])))
    first = pa.array(order[starts])
    copies = np.add.reduceat(n_copies[order], starts)
    columns = [
        pa.array(ascending[starts]),
        *(rows.column(name).combine_chunks().take(first) for name in ("shard", "row", "line")),
    ]
    return pa.RecordBatch.from_arrays([*columns, pa.array(copies)], schema=LINE_RUN)


def repeated_flags(lines: ShardLines, repeated: Batches, keep_first: bool) -> Kinds:
    """For each line 1 where it is to go as a repeated one, else 0. `repeated` is streamed against the sorted lines."""
    order = np.argsort(lines.hashes, kind="stable")
    ascending = lines.hashes[order]
    flags = np.zeros(len(order), np.int8)
    firsts: npt.NDArray[np.int64] = np.cumsum(lines.n_lines, dtype=np.int64) - lines.n_lines
    before = -1
    for batch in _batches(repeated):
        hashes = batch.column("hash").to_numpy()
        if not len(hashes):
            continue
        if int(hashes[0]) <= before or (hashes[1:] <= hashes[:-1]).any():
            raise ContractError("the repeated lines do not ascend", where=f"after {before}", fix="take them as they come")
        before = int(hashes[-1])
        low, high = np.searchsorted(ascending, hashes, side="left"), np.searchsorted(ascending, hashes, side="right")
        counts = high - low
        inside = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)
        flags[order[np.repeat(low, counts) + inside]] = _REPEATED
        if keep_first:
            here = pc.equal(batch.column("shard"), lines.shard).to_numpy(zero_copy_only=False)
            rows, numbers = batch.column("row").to_numpy()[here], batch.column("line").to_numpy()[here]
            documents = np.minimum(np.searchsorted(lines.rows, rows), len(lines.rows) - 1)
            first = np.minimum(firsts[documents] + numbers, len(flags) - 1)
            if (lines.hashes[first] != hashes[here]).any():
                raise ContractError("a first copy is not where its run saw it", where=lines.shard, fix="make the run again")
            flags[first] = 0
    return flags


@njit(cache=True, nogil=True)
def _spans(n_lines, n_chars, reasons):  # type: ignore[no-untyped-def]
    """Document, start, end, reason and first line of each span: neighbouring lines of one reason together, in characters.

    A line goes with the newline after it; those after the last line that stays go with the newline before them.
    """
    documents, starts = np.empty(len(reasons), np.int64), np.empty(len(reasons), np.int64)
    ends, kinds = np.empty(len(reasons), np.int64), np.empty(len(reasons), np.int8)
    lines = np.empty(len(reasons), np.int64)
    n_spans = first = 0
    for document in range(len(n_lines)):
        stop = first + n_lines[document]
        tail = stop
        while tail > first and reasons[tail - 1] != 0:
            tail -= 1
        at = 0
        previous = 0
        for line in range(first, stop):
            start, end = at, at + n_chars[line] + 1
            at = end
            if line >= tail:
                start, end = max(0, start - 1), end - 1
            if reasons[line] and end > start:
                if previous == reasons[line]:
                    ends[n_spans - 1] = end
                else:
                    documents[n_spans], starts[n_spans] = document, start
                    ends[n_spans], kinds[n_spans], lines[n_spans] = end, reasons[line], line
                    n_spans += 1
                previous = reasons[line]
            elif not reasons[line]:
                previous = 0
        first = stop
    kept = slice(0, n_spans)
    return documents[kept].copy(), starts[kept].copy(), ends[kept].copy(), kinds[kept].copy(), lines[kept].copy()
