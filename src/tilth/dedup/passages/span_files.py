"""Substring deduplication of any number of shards, with its runs as Parquet files instead of in memory."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tilth.dedup.passages.spans import (
    ANCHOR_RUN,
    MAX_BYTES,
    WINDOW_RUN,
    Mode,
    anchor_run,
    repeated_anchors,
    repeated_windows,
    span_edits,
    window_run,
)

MOST_RUNS = 200  # files that are open at once
BATCH_ROWS = 20_000
Combine = Callable[..., Iterator[pa.RecordBatch]]
Shard = Callable[[], Iterable[pa.RecordBatch]]  # reads its documents anew at each call


def repeated_spans(
    shards: Sequence[Shard], spill: Path, min_tokens: int = 50, mode: Mode = "keep_first", max_bytes: int = MAX_BYTES
) -> Iterator[pa.Table]:  # fmt: skip
    """For each of `shards` (shard, row, text; the names of shards ascend) what to cut from it (edits/1), as `span_edits` says.

    Each is read four times. What is spilled into the folder `spill`, about 8 bytes for every twelve tokens and 30 for every
    token of spans that look repeated, is removed at the end.
    """
    with tempfile.TemporaryDirectory(prefix="spans-", dir=spill) as place:
        folder = Path(place)
        anchors, windows = folder / "anchors.parquet", folder / "windows.parquet"
        runs = [folder / f"{number}.parquet" for number in range(len(shards))]
        for shard, path in zip(shards, runs, strict=True):
            write_run(path, ANCHOR_RUN, anchor_run(shard(), min_tokens).to_batches())
        write_repeated(runs, repeated_anchors, ANCHOR_RUN, anchors)
        for shard, path in zip(shards, runs, strict=True):
            write_run(path, WINDOW_RUN, window_run(shard(), read_run(anchors), min_tokens, max_bytes))
        write_repeated(runs, repeated_windows, WINDOW_RUN, windows)
        for shard in shards:
            yield span_edits(shard, read_run(anchors), read_run(windows), min_tokens, mode, max_bytes)


def write_repeated(runs: Sequence[Path], combine: Combine, schema: pa.Schema, path: Path, at_least: int = 2) -> int:
    """Merge runs and write what occurs `at_least` so often; in rounds where they are more than can be open."""
    with tempfile.TemporaryDirectory(prefix=".merging-", dir=path.parent) as spare:
        few = few_runs(runs, combine, Path(spare))
        return write_run(path, schema, combine([read_run(run) for run in few], at_least=at_least))


def few_runs(runs: Sequence[Path], combine: Combine, spare: Path) -> list[Path]:
    """Runs that can all be open at once: `runs`, or what rounds of merging make of them in the folder `spare`."""
    runs = list(runs)
    while len(runs) > MOST_RUNS:
        schema = pq.read_schema(runs[0])
        groups = [runs[at : at + MOST_RUNS] for at in range(0, len(runs), MOST_RUNS)]
        runs = [spare / f"{len(runs)}-{number}.parquet" for number in range(len(groups))]
        for merged, group in zip(runs, groups, strict=True):
            write_run(merged, schema, combine([read_run(run) for run in group], at_least=1))
    return runs


def write_merged(parts: Iterable[Iterable[pa.RecordBatch]], combine: Combine, schema: pa.Schema, path: Path) -> int:
    """Write several runs, made one after the other, as one; returns its rows."""
    with tempfile.TemporaryDirectory(prefix=".parts-", dir=path.parent) as spare:
        runs = []
        for number, part in enumerate(parts):
            runs.append(Path(spare) / f"{number}.parquet")
            write_run(runs[-1], schema, part)
        if len(runs) == 1:
            runs[0].replace(path)
            return int(pq.read_metadata(path).num_rows)
        return write_repeated(runs, combine, schema, path, at_least=1)


def read_run(path: Path) -> Iterator[pa.RecordBatch]:
    """The batches of a run, without reading ahead: many are open at once."""
    with pq.ParquetFile(path, pre_buffer=False) as file:
        yield from file.iter_batches(BATCH_ROWS)


def write_run(path: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> int:
    """Write a run; returns its rows."""
    n_rows = 0
    with pq.ParquetWriter(path, schema, compression="zstd") as file:
        for batch in batches:
            file.write_batch(batch)
            n_rows += batch.num_rows
    return n_rows
