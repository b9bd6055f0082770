"""Decontamination and repeated spans: megabytes of text a CPU-second on one core, and memory.

    python benchmarks/overlap.py [DATA]

DATA is the folder of test data (or TILTH_TEST_DATA): benchmarks, books, dumps and pages of it are the real texts. Each case
runs in a process of its own on shards in Parquet files; memory is how much its peak grew after a small run (0: less than
making the index took). TILTH_BENCHMARK_REPEATS (3) says how often. TILTH_BENCHMARK_NOTES is added to each row, such as what
else ran on the machine.
"""

from __future__ import annotations

import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from results import append, row

from tilth.dedup.contamination.items import read_items
from tilth.dedup.contamination.ngram_index import BenchmarkIndex, build_index
from tilth.dedup.contamination.overlaps import find_contamination
from tilth.dedup.contamination.parameters import OverlapParameters
from tilth.dedup.passages.span_files import repeated_spans

REPEATS = int(os.environ.get("TILTH_BENCHMARK_REPEATS", "3"))
N_SHARDS = 4
BENCHMARKS = {
    "humaneval": "humaneval/data/HumanEval.jsonl.gz",
    "mbpp": "mbpp/data/mbpp.jsonl",
    "gsm8k": "gsm8k_test/grade_school_math/data/test.jsonl",
}
REAL = (
    "pg_mobydick2701",
    "pg_pride1342",
    "gensim_wiki",
    "readability_pages",
    "onestop_english",
    "goose3_pages",
    "rpv2_reference",
)
TEXT_KINDS = (".txt", ".xml", ".html", ".htm", ".json", ".jsonl")
WHAT = {
    "words": "decontamination, 13 words",
    "characters": "decontamination, 13 words and 50 characters",
    "spans": "spans of 50 tokens",
}


def texts_of(name: str, data: Path) -> list[str]:
    """The documents of a case."""
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefghijklmnop", k=rng.randint(2, 9))) for _ in range(20_000)]
    if name == "real files":
        paths = [path for folder in REAL for path in sorted((data / folder).rglob("*")) if path.suffix in TEXT_KINDS]
        return [path.read_text(errors="ignore") for path in paths if path.is_file()]
    if name == "copies of one page":
        return [" ".join(rng.choices(words, k=160))] * 100_000
    made = [" ".join(rng.choices(words, k=500)) for _ in range(15_000)]
    return made if name == "synthetic" else [text if i % 10 else made[i // 20] for i, text in enumerate(made)]


def write_shards(texts: list[str], folder: Path) -> None:
    """Shards of documents, every fourth in each."""
    for shard in range(N_SHARDS):
        own = texts[shard::N_SHARDS]
        columns = [pa.array([f"s/{shard}"] * len(own)), pa.array(range(len(own)), pa.int32()), pa.array(own, pa.large_string())]
        pq.write_table(pa.table(columns, ["shard", "row", "text"]), folder / f"{shard}.parquet")


def read(path: Path) -> Iterator[pa.RecordBatch]:
    """A shard, streamed."""
    with pq.ParquetFile(path, pre_buffer=False) as file:
        yield from file.iter_batches(2_000)


def measure(what: str, folder: Path, data: Path) -> dict[str, float]:
    """CPU-seconds, peak bytes beyond the start, and rows that were found."""
    shards: list[Callable[[], Iterator[pa.RecordBatch]]] = [partial(read, path) for path in sorted(folder.glob("*.parquet"))]
    small = [partial(read, folder / "small" / "0.parquet")]
    if what == "spans":
        run = lambda given: sum(edits.num_rows for edits in repeated_spans(given, folder))  # noqa: E731
    else:
        items = {name: read_items(data / path) for name, path in BENCHMARKS.items()}
        parameters = OverlapParameters(n_characters=50 if what == "characters" else 0)
        index = BenchmarkIndex(build_index(items, parameters, {}))
        run = lambda given: sum(found.num_rows for shard in given for found in find_contamination(shard(), index))  # noqa: E731
    run(small)
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    n_found = run(shards)
    seconds = time.process_time() - started
    return {"seconds": seconds, "bytes": 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before), "found": n_found}


def main() -> None:
    data = Path(sys.argv[1] if len(sys.argv) > 1 else os.environ["TILTH_TEST_DATA"])
    notes = os.environ.get("TILTH_BENCHMARK_NOTES", "")
    for name in ("real files", "synthetic", "synthetic, a tenth copies", "copies of one page"):
        with tempfile.TemporaryDirectory() as place:
            folder, texts = Path(place), texts_of(name, data)
            (folder / "small").mkdir()
            write_shards(texts, folder)
            write_shards(texts[:40], folder / "small")
            megabytes = sum(len(text.encode()) for text in texts) / 1e6
            for what, label in WHAT.items():
                command = [sys.executable, __file__, "--case", what, str(folder), str(data)]
                runs = [json.loads(subprocess.run(command, check=True, capture_output=True).stdout) for _ in range(REPEATS)]
                speeds = [megabytes / run["seconds"] for run in runs]
                peak = max(run["bytes"] for run in runs) >> 20
                said = f"{runs[0]['found']:,} rows found; {min(speeds):.3g}-{max(speeds):.3g} MB/s; peak {peak} MiB; {notes}"
                append([row(label, f"{name}, {megabytes:.0f} MB", statistics.median(speeds), "MB/CPU-s", notes=said, threads=1)])


if __name__ == "__main__":
    if sys.argv[1:2] == ["--case"]:
        json.dump(measure(sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4])), sys.stdout)
    else:
        main()
