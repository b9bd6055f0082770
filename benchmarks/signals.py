"""RedPajama-V2's signals that need no model: documents and megabytes a CPU-second, memory, and what the first call costs.

    python benchmarks/signals.py [DATA]

DATA is the folder of test data (or TILTH_TEST_DATA); the documents are those of `rpv2_reference`. Where TILTH_RPV2_SOURCE names
the folder `app/src` of a checkout of RedPajama-Data, the same signals of its own code run on the same documents in the
same run, by the interpreter TILTH_RPV2_PYTHON (this one by default), which needs nltk and msgspec; the values are compared.
TILTH_BENCHMARK_NOTES is added to each row, such as what else ran on the machine.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
from results import append, row, spread

from tilth.quality_signals.fused.phrases import word_lists
from tilth.quality_signals.registry import compute_families, get_family

FAMILIES = ("natural_language", "repetition", "lines", "stop_words", "bad_words", "blocked_domains", "ccnet")
REPEATS = 5
NUMBERS = ("language_score", "length", "nlines", "original_length", "original_nlines", "perplexity", "bucket")

# What the published worker does for a document, less the signals with models, the signatures and the files.
PEER = """
import json, sys, time, types
sys.modules["fasttext"] = types.ModuleType("fasttext")
from core.document import Document
from core.quality_signals.content import register_content_callables
from core.quality_signals.lines import register_lines_callables
from core.quality_signals.natural_language import register_natural_language_callables
from core.quality_signals.repetitions import register_repetitions_callables
folder, repeats = sys.argv[1], int(sys.argv[2])
records = [json.loads(line) for line in open(folder + "/docs.jsonl", "rb")]
signals = register_content_callables("en", folder + "/artifacts/bad_urls", folder + "/artifacts/bad_words")
signals += register_repetitions_callables() + register_natural_language_callables() + register_lines_callables()
times = []
for _ in range(repeats):
    start, values = time.process_time(), []
    for record in records:
        document = Document(record["raw_content"], domain=record["source_domain"], precompute_ngrams=True)
        values.append({signal.field_name: signal(document) for signal in signals})
    times.append(time.process_time() - start)
json.dump({"times": times, "values": values}, sys.stdout)
"""

FIRST_CALL = """
import time
start = time.perf_counter()
import pyarrow as pa
from tilth.quality_signals.registry import compute_families, get_family
columns = {"shard": ["s"], "row": pa.array([0], pa.int32()), "text": ["a b"], "language": ["en"]}
families = [get_family(name) for name in ("natural_language", "repetition", "lines", "stop_words", "bad_words")]
ready = time.perf_counter()
compute_families(families, pa.table(columns), resources={"bad_words": b'{"en": ["a"]}'})
print(ready - start, time.perf_counter() - ready)
"""

MEMORY = """
import resource
import pyarrow as pa
from tilth.quality_signals.registry import compute_families, get_family
text = "The quick brown fox jumps over the lazy dog, and over 13 others.\\n"
columns = {"shard": ["s"], "row": pa.array([0], pa.int32()), "language": ["en"]}
columns["text"] = pa.array([text * (10**8 // len(text))], pa.large_string())
families = [get_family(name) for name in ("natural_language", "repetition", "lines", "stop_words", "bad_words")]
compute_families(families, pa.table(columns), resources={"bad_words": b'{"en": ["a"]}'})
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def main(folder: Path) -> None:
    """Measure on the documents of the reference, ASCII and others, and append rows to results.csv."""
    records = [json.loads(line) for line in (folder / "docs.jsonl").read_bytes().splitlines()]
    resources = {
        "bad_words": word_lists(folder / "artifacts" / "bad_words"),
        "blocked_domains": (folder / "artifacts" / "bad_urls" / "domain_to_category_id.json").read_bytes(),
    }
    rows = [_against_reference(records, resources, folder)]
    for script, is_ascii in (("ASCII", True), ("not ASCII", False)):
        chosen = [record for record in records if record["raw_content"].isascii() == is_ascii]
        chosen *= 1 + 64_000_000 // _n_bytes(chosen)
        rows += _on_many(chosen, resources, script)
    append([*rows, _memory(), *_first_calls()])


def _against_reference(records: list[dict[str, Any]], resources: dict[str, bytes], folder: Path) -> dict[str, str]:
    documents, families = _table(records), [get_family(name) for name in FAMILIES]
    ours = _cpu_seconds(lambda: compute_families(families, documents, resources=resources))
    peer, notes = None, "TILTH_RPV2_SOURCE is not set: no peer"
    if "TILTH_RPV2_SOURCE" in os.environ:
        command = [os.environ.get("TILTH_RPV2_PYTHON", sys.executable), "-c", PEER, str(folder), str(REPEATS)]
        path = {**os.environ, "PYTHONPATH": os.environ["TILTH_RPV2_SOURCE"]}
        found = json.loads(subprocess.run(command, env=path, stdout=subprocess.PIPE, text=True, check=True).stdout)
        # Ours runs before and after it, so that both see the machine as it is.
        ours += _cpu_seconds(lambda: compute_families(families, documents, resources=resources))
        peer = statistics.median(found["times"])
        n_equal, n_values = _equal(compute_families(families, documents, resources=resources), found["values"])
        notes = f"peer: RedPajama-V2's own code for the same signals, {len(records) / peer:.0f} docs/s"
        notes += f"; {n_equal} of {n_values} values equal"
    median, n_bytes = statistics.median(ours), _n_bytes(records)
    speed = f"{len(records) / median:.0f} docs/s and {n_bytes / median / 1e6:.1f} MB/s per core; CPU p10-p90 {spread(ours)} s"
    size = f"{len(records)} documents, {n_bytes / 1e6:.2f} MB"
    scale = 1e6 / len(records)
    return row(
        "rpv2 signals without models", size, median * scale, "CPU us/document", peer and peer * scale, _noted(speed, notes), 1
    )


def _on_many(records: list[dict[str, Any]], resources: dict[str, bytes], script: str) -> list[dict[str, str]]:
    documents, n_bytes = _table(records), _n_bytes(records)
    size = f"{len(records)} documents, {n_bytes / 1e6:.0f} MB"
    rows = []
    for what, names in (("signals without models", FAMILIES), ("document signals", FAMILIES[:2])):
        families = [get_family(name) for name in names]
        times = _cpu_seconds(lambda chosen=families: compute_families(chosen, documents, resources=resources))
        median = statistics.median(times)
        speed = f"{len(records) / median:.0f} docs/s; CPU p10-p90 {spread(times)} s; {', '.join(names)}"
        rows.append(row(f"rpv2 {what}, {script}", size, n_bytes / median / 1e6, "MB/CPU-s", None, _noted(speed), 1))
    return rows


def _memory() -> dict[str, str]:
    """Of a process of its own, which the peak of this one would hide."""
    command = [sys.executable, "-c", MEMORY]
    peak = int(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout) / 1024
    notes = "peak RSS of a process with the text and all its signals, started for it"
    return row("rpv2 signals without models, memory", "1 document, 100 MB", peak, "MiB", None, _noted(notes), 1)


def _first_calls() -> list[dict[str, str]]:
    rows = []
    with tempfile.TemporaryDirectory(prefix="tilth-bench-") as cache:
        for what in ("cold: compiles all kernels", "warm: loads them"):
            command, environment = [sys.executable, "-c", FIRST_CALL], {**os.environ, "NUMBA_CACHE_DIR": cache}
            done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
            importing, scoring = map(float, done.stdout.split())
            notes = _noted(f"once a process; import {importing:.2f} s before it")
            rows.append(row(f"rpv2 signals, first call {what}", "1 document", scoring, "s wall", None, notes, 1))
    return rows


def _cpu_seconds(work: Callable[[], Any]) -> list[float]:
    work()  # loads what is compiled
    times = []
    for _ in range(REPEATS):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return times


def _equal(ours: dict[str, pa.Table], theirs: list[dict[str, Any]]) -> tuple[int, int]:
    """How many of the reference's values are ours too, of how many; a line signal of a document counts as one."""
    found = [row for table in ours.values() for row in [table.to_pydict()]]
    columns = {name: values for table in found for name, values in table.items()}
    n_equal = n_values = 0
    for index, signals in enumerate(theirs):
        for name, spans in signals.items():
            scores = [score for *_, score in spans]
            if name.startswith("rps_lines_"):
                same = columns[name][index] == [score for score in scores if score is not None]
            else:
                same = columns[name][index] == scores[0]
            n_values, n_equal = n_values + 1, n_equal + same
    return n_equal, n_values


def _table(records: list[dict[str, Any]]) -> pa.Table:
    meta = [[(name, str(record[name])) for name in NUMBERS] for record in records]
    return pa.table(
        {
            "shard": pa.array(["benchmark"] * len(records), pa.string()),
            "row": pa.array(range(len(records)), pa.int32()),
            "text": pa.array([record["raw_content"] for record in records], pa.large_string()),
            "url": pa.array([f"http://{record['source_domain']}/" for record in records], pa.string()),
            "language": pa.array([record["language"] for record in records], pa.string()),
            "meta": pa.array(meta, pa.map_(pa.string(), pa.string())),
        }
    )


def _n_bytes(records: list[dict[str, Any]]) -> int:
    return sum(len(record["raw_content"].encode()) for record in records)


def _noted(*parts: str) -> str:
    return "; ".join(part for part in (*parts, os.environ.get("TILTH_BENCHMARK_NOTES", "")) if part)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else os.environ["TILTH_TEST_DATA"]) / "rpv2_reference")
