"""What is repeated, told to each part of a text that has it: one pass over the runs of all parts, whatever their number.

A run has a row for each hash and part. All runs are merged by hash, so all parts of a hash are seen together: where it has
two copies or more, each of them is told so, and where the first copy is. The rows come in the order of hashes and are dealt out
to a file for each part, which therefore ascends as well: nothing is sorted again, and a part reads its own file and no other.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tilth.dedup.passages import span_files
from tilth.dedup.sorted_runs import Batches, merged_runs

PART = pa.field("part", pa.int64(), nullable=False)
MAX_BYTES = 256 << 20
_ROW_BYTES = 200  # while runs are merged


def with_parts(schema: pa.Schema) -> pa.Schema:
    """The schema of a run of many parts; `schema` is that of one, with `hash`, maybe `check`, and `n_copies`."""
    return schema.append(PART)


def of_part(batches: Iterable[pa.RecordBatch], part: int) -> Iterator[pa.RecordBatch]:
    """The run of one part, with its number."""
    for batch in batches:
        yield batch.append_column(PART, pa.array(np.full(batch.num_rows, part), pa.int64()))


def interleaved(runs: Sequence[Batches], at_least: int = 1) -> Iterator[pa.RecordBatch]:
    """Runs as one run, in which a hash has the rows of all its parts."""
    for rows in merged_runs(runs, _ROW_BYTES, MAX_BYTES):
        order = np.lexsort((rows.column("part").to_numpy(), *_keys(rows)))
        yield from rows.take(pa.array(order)).combine_chunks().to_batches()


def write_by_part(runs: Sequence[Path], parts: Sequence[int], folder: Path) -> int:
    """Write what occurs twice or more, in `folder` a file for each of `parts` (ascending) that has it (`read_part`).

    `runs` are files of runs of many parts. Returns how many different things are repeated. Memory: MAX_BYTES twice, whatever
    the number of parts; time: linear in the rows of the runs, but for rounds where more than `MOST_RUNS` files would be open.
    """
    n_repeated = 0

    def counted(runs: Sequence[Path]) -> Iterator[pa.RecordBatch]:
        nonlocal n_repeated
        for rows, n in _repeated([span_files.read_run(run) for run in runs]):
            n_repeated += n
            yield from rows.to_batches()

    with tempfile.TemporaryDirectory(prefix=".parts-", dir=folder.parent) as spare:
        _deal_out(counted(span_files.few_runs(runs, interleaved, Path(spare))), parts, folder, Path(spare))
    return n_repeated


def read_part(folder: Path, part: int) -> Iterator[pa.RecordBatch]:
    """What is repeated of one part, ascending by hash; nothing where it repeats nothing."""
    path = _file(folder, part)
    return span_files.read_run(path) if path.exists() else iter(())


def _repeated(runs: Sequence[Batches]) -> Iterator[tuple[pa.Table, int]]:
    """The rows of what occurs twice or more, ascending, a row for each part, and how many different things these are."""
    for rows in merged_runs(runs, _ROW_BYTES, MAX_BYTES):
        keys = _keys(rows)
        order = np.lexsort((rows.column("part").to_numpy(), *keys))
        sorted_keys = [key[order] for key in keys]
        is_new = np.zeros(len(order), bool)
        is_new[0] = True
        for key in sorted_keys:
            is_new[1:] |= key[1:] != key[:-1]
        firsts = np.flatnonzero(is_new)
        n_copies = np.add.reduceat(rows.column("n_copies").to_numpy()[order], firsts)
        group = np.cumsum(is_new) - 1
        kept = n_copies[group] >= 2
        # A part has a hash once and parts ascend, so the first of a group is the first copy.
        first_copy = rows.take(pa.array(order[firsts][group[kept]]))
        told = first_copy.set_column(rows.schema.get_field_index("n_copies"), "n_copies", pa.array(n_copies[group[kept]]))
        own = rows.column("part").take(pa.array(order[kept]))
        found = told.set_column(rows.schema.get_field_index("part"), PART, own)
        if found.num_rows:
            yield found.cast(rows.schema), int((n_copies >= 2).sum())


def _keys(rows: pa.Table) -> list[np.ndarray]:
    """What is compared, for `np.lexsort`: the most important last."""
    return [rows.column(name).to_numpy() for name in ("check", "hash") if name in rows.column_names]


def _deal_out(batches: Iterable[pa.RecordBatch], parts: Sequence[int], folder: Path, spare: Path) -> None:
    """Write the rows of each part to its file; by groups of parts first where they are more than files can be open."""
    most = span_files.MOST_RUNS
    if len(parts) <= most:
        _split(batches, parts, [_file(folder, part) for part in parts])
        return
    size = -(-len(parts) // most)
    groups = [parts[first : first + size] for first in range(0, len(parts), size)]
    with tempfile.TemporaryDirectory(dir=spare) as place:
        paths = [Path(place) / f"{number}.parquet" for number in range(len(groups))]
        _split(batches, [group[0] for group in groups], paths)
        for path, group in zip(paths, groups, strict=True):
            if path.exists():
                _deal_out(span_files.read_run(path), group, folder, spare)
                path.unlink()


def _split(batches: Iterable[pa.RecordBatch], firsts: Sequence[int], paths: Sequence[Path]) -> None:
    """Write each row to the last of `paths` whose first part is not behind it, in the order in which rows come."""
    lows, writers = np.array(firsts), dict[int, pq.ParquetWriter]()

    def write(held: list[pa.RecordBatch]) -> None:
        rows = pa.Table.from_batches(held)
        own = np.searchsorted(lows, rows.column("part").to_numpy(), side="right") - 1
        order = np.argsort(own, kind="stable")
        ordered, bounds = rows.take(pa.array(order)), (np.flatnonzero(np.diff(own[order])) + 1).tolist()
        for start, stop in pairwise([0, *bounds, len(own)]):
            place = int(own[order[start]])
            if place not in writers:
                writers[place] = stack.enter_context(pq.ParquetWriter(paths[place], rows.schema, compression="zstd"))
            writers[place].write_table(ordered.slice(start, stop - start))

    with ExitStack() as stack:
        held, n_rows = list[pa.RecordBatch](), 0
        for batch in batches:
            held.append(batch)
            n_rows += batch.num_rows
            if n_rows * _ROW_BYTES >= MAX_BYTES:
                write(held)
                held, n_rows = [], 0
        if n_rows:
            write(held)


def _file(folder: Path, part: int) -> Path:
    return folder / f"{part:016x}.parquet"
